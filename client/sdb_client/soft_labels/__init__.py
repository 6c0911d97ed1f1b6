"""Soft labels for the images of a data set, each paid for once. The data sets themselves need the extra `torch`."""

from importlib import import_module
from typing import TYPE_CHECKING

from sdb_client.soft_labels.errors import BudgetSpent, DamagedCache, NoSoftLabels, NotFetched, OtherCache
from sdb_client.soft_labels.estimate import Estimate

if TYPE_CHECKING:
    from sdb_client.soft_labels.dataset import SoftLabels
    from sdb_client.soft_labels.stream import SoftLabelStream

__all__ = [
    "BudgetSpent",
    "DamagedCache",
    "Estimate",
    "NoSoftLabels",
    "NotFetched",
    "OtherCache",
    "SoftLabelStream",
    "SoftLabels",
]

_HOMES = {"SoftLabels": "dataset", "SoftLabelStream": "stream"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

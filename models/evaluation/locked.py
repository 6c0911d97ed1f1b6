"""A locked bundle under attack: what its thief has, and what the evaluation knows besides.

Knows bundles and the secret; tries nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sdb_client.transforms import Transform
from torch import nn

from models.attacks.locks.keys import Scheme
from models.bundles import LockSpec, Manifest
from models.guard import SafeDistillationBox
from models.key_stream import lock_secret
from models.lock import KID, lock_transform

PLAIN = "test_top1_plain"  # what `sdb lock` measures with a stem or --compare


@dataclass(frozen=True)
class Locked:
    """Network, transformed images → logits, frozen; `scheme` and how it was locked; the `right` key.

    `other(n)` is the key that another client's or model's name gives with the same secret. `base` is a public network
    of the same architecture, told from others by `base_identity`; `plain` the top-1 in [0, 1] of the same model without
    a lock. Both may be missing.
    """

    network: nn.Module
    scheme: Scheme
    method: str
    right: Transform
    other: Callable[[int], Transform]
    base: nn.Module | None = None
    base_identity: str = ""
    plain: float | None = None


def locked_bundle(
    manifest: Manifest,
    spec: LockSpec,
    box: SafeDistillationBox,
    secret: bytes,
    *,
    base: nn.Module | None,
    base_identity: str,
) -> Locked:
    """What `manifest`, its lock `spec` and `box` say, with the keys that `secret` gives."""
    name, size = manifest.name, manifest.input

    def other(number: int) -> Transform:
        """By turns the key of another client and that of another model."""
        kid, model = (f"client-{number}", name) if number % 2 == 0 else (KID, f"{name}-{number}")
        return Transform.from_secret(lock_secret(secret), kid=kid, model=model, steps=spec.steps, block=spec.block)

    return Locked(
        box.network,
        Scheme(spec.steps, spec.block, (3, size.height, size.width)),
        spec.method,
        lock_transform(secret, name, spec.steps, spec.block),
        other,
        base,
        base_identity,
        manifest.metrics.get(PLAIN),
    )

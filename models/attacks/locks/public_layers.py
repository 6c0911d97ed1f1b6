"""A public network's first layers in the place of the stolen ones: no key, no label, nothing learned.

The later layers of a locked network stay near the public weights that they began from. Where there is a stem, the first
cut takes it out.
"""

from collections.abc import Iterator

from models.attacks.locks.grafts import grafts
from models.attacks.locks.thief import Opened, Thief, as_it_is
from models.progress import followed


def steal(thief: Thief) -> Iterator[Opened]:
    """The networks that are public up to each cut, in order."""
    for graft in followed(grafts(thief), "public layers"):
        yield Opened(as_it_is, network=graft, cut=graft.cut)

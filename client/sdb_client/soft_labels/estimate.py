"""What it will cost to have soft labels, before anything is paid."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """What a `fetch` would do now.

    `images` counts every view of every image. `duplicates` of them are like another one to the last bit, `cached` are
    in the cache already; the `cost` is the rest. `remaining` is what the key has left, None if that is not limited.
    """

    images: int
    duplicates: int
    cached: int
    remaining: int | None

    @property
    def cost(self) -> int:
        """How many answers the key will be charged."""
        return self.images - self.duplicates - self.cached

    @property
    def enough(self) -> bool:
        """Whether the key can pay."""
        return self.remaining is None or self.cost <= self.remaining

    def __str__(self) -> str:
        has = "without limit" if self.remaining is None else f"{self.remaining:,}"
        found = f"{self.images:,} images, {self.duplicates:,} of them twice, {self.cached:,} in the cache"
        return f"{found}: costs {self.cost:,}, the key has {has}: {'enough' if self.enough else 'not enough'}"

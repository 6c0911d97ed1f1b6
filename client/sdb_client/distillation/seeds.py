"""Random numbers that can be drawn again."""

import hashlib

import torch


def generator_of(*numbers: int) -> torch.Generator:
    """A generator that every one of `numbers` decides; torch's own seeding looks at 32 bits only."""
    seed = hashlib.sha256(repr(numbers).encode()).digest()[:4]
    return torch.Generator().manual_seed(int.from_bytes(seed, "big"))

"""Images as the blocks that a lock transforms, and back.

Knows the order of blocks (row by row) and of the values in one (height, width, channel), as `sdb_client.steps` has it.
"""

from torch import Tensor


def to_blocks(images: Tensor, block: int) -> Tensor:
    """Images [B, C, H, W] → blocks [B, N, n]."""
    batch, channels, height, width = images.shape
    grid = images.reshape(batch, channels, height // block, block, width // block, block)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, block * block * channels)


def to_images(blocks: Tensor, block: int, shape: tuple[int, int, int]) -> Tensor:
    """Blocks [B, N, n] → images [B, C, H, W]; `shape` is (C, H, W)."""
    channels, height, width = shape
    grid = blocks.reshape(len(blocks), height // block, width // block, block, block, channels)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(blocks), channels, height, width)

"""`sdb` with the guard taken out of every box: what the same server costs without protection.

The product has no such mode. Here each box is replaced, when it is put together, by one that answers with its network
alone: no key, one view, no release stage; whatever runs the box then runs that.
"""

import torch
from torch import Tensor

from app.cli import main
from models import bundles
from models.bundles import Manifest, assemble
from models.guard import SafeDistillationBox


class Unguarded(SafeDistillationBox):
    """A box that gives everybody what its network says."""

    def with_key(self, images: Tensor, unlocked: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Logits [B, K] of images [B, 3, H, W] in [0, 1]; rights mean nothing."""
        return self.without_key(images.contiguous(memory_format=torch.channels_last))

    def released(self, images: Tensor, logits: Tensor, keyed: Tensor) -> Tensor:  # noqa: ARG002
        """The logits as they are."""
        return logits


def unguarded(manifest: Manifest, secret: bytes, deployment: bytes = b"") -> SafeDistillationBox:
    """`bundles.assemble`, and the guard taken out."""
    box = assemble(manifest, secret, deployment)
    box.__class__ = Unguarded
    return box


if __name__ == "__main__":
    bundles.assemble = unguarded
    main()

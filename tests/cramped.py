"""A network whose device is short of memory: a real module, so that what is done about it can be seen without a GPU."""

import torch
from torch import Tensor, nn


class Cramped(nn.Module):
    """A network on a device that has room for `most` rows."""

    def __init__(self, network: nn.Module, most: int) -> None:
        super().__init__()
        self.network, self.most, self.seen = network, most, list[int]()

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("no room")
        logits: Tensor = self.network(images)
        return logits

"""Names to classifiers: torchvision's, and the CIFAR residual networks that torchvision lacks.

Knows architectures; knows nothing of keys, training or where weights come from. torchvision is imported where it is
used: it takes longer than the rest of a server's start, and the shipped model needs none of it.
"""

from collections.abc import Callable, Sequence

import torch
from sdb_client.transforms import BLOCKS
from torch import Tensor, nn
from torch.nn import functional as F

from models.stem import with_stem

STEM = "+stem"  # joins the name of an architecture and the block of the stem before it: cifar_resnet20+stem4
AUXILIARY_HEADS = {"googlenet", "inception_v3"}  # they return several outputs while training


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A of He et al. 2016, §4.2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, images: Tensor) -> Tensor:
        """[B, inputs, H, W] → [B, outputs, H/stride, W/stride]."""
        hidden = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(images)))))
        shortcut = images[:, :, :: self.stride, :: self.stride]
        return F.relu(hidden + F.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding)))


class CifarResNet(nn.Module):
    """He et al. 2016, §4.2: 6n+2 layers in three stages of 16, 32 and 64 channels."""

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1, blocks)
        self.layer2 = self._stage(16, 32, 2, blocks)
        self.layer3 = self._stage(32, 64, 2, blocks)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
        rest = (ResidualBlock(outputs, outputs, 1) for _ in range(blocks - 1))
        return nn.Sequential(ResidualBlock(inputs, outputs, stride), *rest)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] → logits [B, K]."""
        hidden = F.relu(self.bn1(self.conv1(images)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        logits: Tensor = self.linear(hidden.mean((2, 3)))
        return logits


class PlainCnn(nn.Sequential):
    """Convolutions with batch normalisation, no shortcut: `shapes` are their (inputs, outputs, stride).

    By default the small student, of four (98,000 parameters for 10 classes).
    """

    def __init__(
        self,
        num_classes: int,
        shapes: Sequence[tuple[int, int, int]] = ((3, 16, 1), (16, 32, 2), (32, 64, 2), (64, 128, 2)),
    ) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs, stride in shapes:
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shapes[-1][1], num_classes))


def slim_cnn(num_classes: int) -> PlainCnn:
    """The smallest student, a sixth of the small one's work: 24,000 parameters for 10 classes."""
    return PlainCnn(num_classes, ((3, 16, 2), (16, 32, 2), (32, 64, 2)))


def cifar_vit(num_classes: int) -> nn.Module:
    """A vision transformer for 32 x 32 images: patches of 4, six layers of width 128 (1.2 million parameters)."""
    from torchvision.models import VisionTransformer  # noqa: PLC0415

    model: nn.Module = VisionTransformer(
        image_size=32, patch_size=4, num_layers=6, num_heads=4, hidden_dim=128, mlp_dim=512, num_classes=num_classes
    )
    return model


CIFAR: dict[str, Callable[[int], nn.Module]] = {
    "slim_cnn": slim_cnn,
    "plain_cnn": PlainCnn,
    "cifar_resnet8": lambda classes: CifarResNet(1, classes),
    "cifar_resnet20": lambda classes: CifarResNet(3, classes),
    "cifar_resnet56": lambda classes: CifarResNet(9, classes),
    "cifar_vit": cifar_vit,
}


def architectures() -> list[str]:
    """Every name that `build` takes."""
    from torchvision import models  # noqa: PLC0415

    listed = set(models.list_models(module=models)) - AUXILIARY_HEADS
    return sorted(CIFAR) + sorted(listed)


def build(architecture: str, num_classes: int) -> nn.Module:
    """A freshly initialised classifier, normalised float images [B, 3, H, W] → logits [B, K].

    "NAME+stemM" is NAME behind a stem for blocks of M, which begins as the identity.

    Raises:
        ValueError: the architecture is not one of `architectures()`, or takes no stem, or none for such blocks.
    """
    architecture, stem, block = architecture.partition(STEM)
    if stem:
        if block not in map(str, BLOCKS):
            raise ValueError(f"a stem is for blocks of {', '.join(map(str, BLOCKS))}, not {block!r}")
        return with_stem(build(architecture, num_classes), int(block))
    if architecture in CIFAR:
        return CIFAR[architecture](num_classes)
    if architecture not in architectures():
        raise ValueError(f"unknown architecture {architecture!r}; one of: {', '.join(architectures())}")
    from torchvision.models import get_model  # noqa: PLC0415

    model: nn.Module = get_model(architecture, weights=None, num_classes=num_classes)
    return model


def stemmed(architecture: str, block: int) -> str:
    """The name of an architecture behind a stem."""
    return f"{architecture}{STEM}{block}"


def takes_stem(architecture: str) -> bool:
    """Whether `build` can put a stem before it."""
    try:
        build(stemmed(architecture, BLOCKS[0]), num_classes=1)
    except ValueError:  # it does not, or there is no such architecture
        return False
    return True


class Classifier(nn.Module):
    """A backbone with its normalisation, so that everything outside speaks of pixels in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone
        # Not part of the weights: the bundle's manifest states them.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] → logits [B, K]."""
        logits: Tensor = self.backbone((images - self.mean) / self.std)
        return logits

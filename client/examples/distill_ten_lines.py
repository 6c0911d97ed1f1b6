"""From a key to a better student. Needs SDB_API_KEY, SDB_BASE_URL, and images/train/CLASS and images/test/CLASS."""

from sdb_client import Client, SoftLabels, distill
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

train, test = (ImageFolder(f"images/{split}", pil_to_tensor) for split in ("train", "test"))
with Client() as client:
    labels = SoftLabels(train, client, model="cifar10", cache="soft-labels")
    print(labels.estimate())
    labels.fetch()
widths = ((3, 32), (32, 64), (64, 128))
blocks = [nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU()) for i, o in widths]
student = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, len(labels.classes)))
loader = DataLoader(labels, batch_size=128, shuffle=True)
print(distill(student, loader, held_out=DataLoader(test, 500), epochs=30, out="student"))

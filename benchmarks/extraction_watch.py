"""The extraction watch against the attacks of the suite and against customers of many kinds, beside other detectors.

Every detector is calibrated on customers simulated from one half of the test images, and tried on customers made of the
other half and on attackers; everybody sends 1,000 images. The network is asked about each image once, callers are drawn
from its answers. Writes results/extraction_watch.json and docs/figures/extraction_watch.svg.
"""

import argparse
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import functional as TF

from benchmarks.plots import DOCS, drawn
from benchmarks.rows import keep
from benchmarks.shipped import shipped
from models.attacks.augmentations import view
from models.attacks.oracle import Remembered, TierOracle
from models.bundles import WEIGHTS
from models.data import LabelledImages, load, pixels_of
from models.engines.choice import Wanted
from models.training.watch import calibrate, worse
from models.watch import Reference, Suspicion, certainty, thumbnails

SENT, WINDOW = 1000, 100  # images of a caller, and of a window of the detectors that look at windows
CUSTOMERS, ATTACKERS = 10_000, 1000  # of each kind and seed
WINDOWED = 1000  # customers of each kind that those detectors are calibrated on and tried with
BURST = 30  # frames of one scene
WITHIN = (50, 100, 200, 500, 1000)
Numbers = NDArray[np.float64]
Places = NDArray[np.intp]


@dataclass(frozen=True)
class Pool:
    """Answers to the images that one kind of caller draws from: log-odds and top-1 [n], thumbnails, true labels."""

    odds: NDArray[np.float32]
    top1: Places
    shown: NDArray[np.float32]
    labels: Places | None = None

    def part(self, places: Places) -> "Pool":
        """Some of them."""
        labels = None if self.labels is None else self.labels[places]
        return Pool(self.odds[places], self.top1[places], self.shown[places], labels)


def main() -> None:
    """Ask the network, simulate, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10 and the foreign sets")
    parser.add_argument("--images", type=int, default=4000, help="test images; half calibrate, half are customers'")
    parser.add_argument("--foreign", type=int, default=1500, help="images of each foreign set")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    predictor = shipped(Wanted("onnxruntime"))
    door = Remembered(TierOracle(predictor, keyed=True))

    def answers(images: Tensor, labels: Tensor | None = None) -> Pool:
        logits = door.query(images).numpy()
        own = None if labels is None else labels.numpy().astype(np.intp)
        return Pool(certainty(logits), logits.argmax(1), thumbnails(pixels_of(images)), own)

    test = _some(load(arguments.data / "cifar10", "test", 32, 32), arguments.images)
    attacks = {name: answers(shown) for name, shown in _foreign(arguments.data, arguments.foreign).items()}
    print(f"{len(attacks)} sets of attackers' images answered", flush=True)
    trials = []
    for seed in range(arguments.seeds):
        known, others = test.split(len(test) // 2, seed)
        weights = predictor.manifest.sha256[WEIGHTS]
        reference = calibrate(lambda shown: door.query(shown).numpy(), known, weights, seed=seed)
        calibration = _customers(answers, known, seed)
        customers = _customers(answers, others, seed) | _unknown(answers, others, seed)
        trials.append(Trial(reference, calibration, customers, attacks, seed).run())
        print(f"seed {seed}: allowance {reference.allowance}, threshold {reference.threshold}", flush=True)
    sizes = f"--images {arguments.images} --foreign {arguments.foreign} --seeds {arguments.seeds}"
    keep(f"extraction_watch --data DATA {sizes}", {"trials": trials})
    _draw(trials)


def _some(images: LabelledImages, count: int) -> LabelledImages:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.subset(order[:count])


def _foreign(data: Path, count: int) -> dict[str, Tensor]:
    """What attackers send: uint8 [n, 3, 32, 32] by attack."""
    generator = torch.Generator().manual_seed(0)
    tiny = _some(load(data / "tinyimagenet100", "train", 32, 32, share=0.1), count).images
    own = _some(load(data / "cifar10", "train", 32, 32, share=0.1), count).images
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    return {
        "KnockoffNets, CopycatCNN: Tiny-ImageNet": tiny,
        "KnockoffNets, CopycatCNN: Imagenette": _some(load(data / "imagenette224", "train", 32, 32), count).images,
        "KnockoffNets, CopycatCNN: ImageNet": load(data / "imagenet1k_sample1000", "test", 32, 32).images,
        "KnockoffNets, CopycatCNN: Fashion-MNIST": _fashion(data, count),
        "augmentations: Tiny-ImageNet": view(tiny, generator),
        "made up: smooth colours": (F.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8),
        "made up: noise": torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8),
        "soft labels, hard labels: own distribution": own,
        "augmentations: own distribution": view(own, generator),
    }


def _fashion(data: Path, count: int) -> Tensor:
    """Fashion-MNIST's own format: 16 bytes of header, then 28 × 28 bytes for each image."""
    content = gzip.decompress((data / "fashion_mnist" / "train-images-idx3-ubyte.gz").read_bytes())
    grey = torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=16).reshape(-1, 1, 28, 28)[:count]
    fitted = F.interpolate(grey.float(), (32, 32), mode="bilinear").round().to(torch.uint8)
    return fitted.expand(-1, 3, -1, -1).contiguous()


def _customers(answers: Callable[..., Pool], images: LabelledImages, seed: int) -> dict[str, Pool]:
    """What customers send that calibration knows of, by the kind of customer."""
    generator = torch.Generator().manual_seed(1000 + seed)
    kinds = {"own distribution": images.images, **worse(images.images, generator)}
    return {name: answers(shown, images.labels) for name, shown in kinds.items()}


def _unknown(answers: Callable[..., Pool], images: LabelledImages, seed: int) -> dict[str, Pool]:
    """And of kinds that no calibration knows."""
    generator = torch.Generator().manual_seed(2000 + seed)
    pixels = images.images.float()
    kinds = {
        "unknown: warm light": pixels * torch.tensor([1.15, 1.0, 0.8])[:, None, None],
        "unknown: turned by 15°": TF.rotate(pixels, 15),
        "unknown: heavy noise": pixels + 20 * torch.randn(pixels.shape, generator=generator),
    }
    shown = {name: values.round().clamp(0, 255).to(torch.uint8) for name, values in kinds.items()}
    return {name: answers(values, images.labels) for name, values in shown.items()}


class Trial:
    """One seed: a reference, the customers it and the other detectors are calibrated on, and everybody else."""

    def __init__(
        self,
        reference: Reference,
        known: dict[str, Pool],
        customers: dict[str, Pool],
        attacks: dict[str, Pool],
        seed: int,
    ) -> None:
        self._reference, self._known, self._customers, self._attacks = reference, known, customers, attacks
        self._draw = np.random.default_rng(seed)
        self._detectors = detectors(known["own distribution"], reference)

    def run(self) -> dict[str, Any]:
        """Everything that is reported of this seed."""
        return {
            "allowance": self._reference.allowance,
            "threshold": self._reference.threshold,
            "customers": {name: self._alarms(pool, drawn) for name, (pool, drawn) in self._clients().items()},
            "bursts": self._bursts(),
            "attacks": {
                name: self._found(pool, self._any(pool, ATTACKERS)) for name, pool in self._attackers().items()
            },
            "detectors": self._compared(),
        }

    def _any(self, pool: Pool, callers: int) -> Places:
        return self._draw.integers(0, len(pool.odds), (callers, SENT))

    def _clients(self, callers: int = CUSTOMERS) -> dict[str, tuple[Pool, Places]]:
        """Customers by kind: what they draw from, and what they draw [callers, SENT]."""
        return self._kinds(self._customers, callers)

    def _kinds(self, pools: dict[str, Pool], callers: int) -> dict[str, tuple[Pool, Places]]:
        own = pools["own distribution"]
        found = {name: (pool, self._any(pool, callers)) for name, pool in pools.items()}
        assert own.labels is not None
        of = [np.flatnonzero(own.labels == label) for label in range(int(own.labels.max()) + 1)]
        each = callers // len(of)
        one = np.concatenate([self._draw.choice(places, (each, SENT)) for places in of])
        found["one class"] = (own, one)
        found["one class, dark"] = (pools["dark"], one)
        shares = self._draw.dirichlet(np.full(len(of), 0.3), callers)
        found["a few classes"] = (own, np.stack([self._skewed(of, share) for share in shares[: callers // 10]]))
        return found

    def _skewed(self, of: list[Places], share: Numbers) -> Places:
        counts = self._draw.multinomial(SENT, share)
        parts = [self._draw.choice(places, count) for places, count in zip(of, counts, strict=True)]
        return self._draw.permutation(np.concatenate(parts))

    def _attackers(self) -> dict[str, Pool]:
        """The attackers' pools, and attackers who hide among images of the owner's distribution."""
        tiny, own = self._attacks["KnockoffNets, CopycatCNN: Tiny-ImageNet"], self._customers["own distribution"]
        found = dict(self._attacks)
        for share in (0.75, 0.5, 0.25, 0.1):
            few = self._draw.integers(0, len(tiny.odds), round(3000 * share))
            rest = self._draw.integers(0, len(own.odds), 3000 - len(few))
            found[f"Tiny-ImageNet, {share:.0%} of the images"] = _both(tiny.part(few), own.part(rest))
        return found

    def _times(self, pool: Pool, drawn: Places) -> Numbers:
        """The image at which each caller raises the alarm, inf if none does; no two images are alike."""
        surprise = self._reference.surprise(pool.odds, pool.top1)
        level, times = np.zeros(len(drawn)), np.full(len(drawn), np.inf)
        for number, places in enumerate(drawn.T, 1):
            level = np.maximum(0, level + surprise[places] - self._reference.allowance)
            times[(level >= self._reference.threshold) & np.isinf(times)] = number
        return times

    def _alarms(self, pool: Pool, drawn: Places) -> dict[str, float]:
        surprise = self._reference.surprise(pool.odds, pool.top1)
        times = self._times(pool, drawn)
        return {
            "surprise": round(float(surprise[drawn].mean()), 3),
            "clients": len(drawn),
            "alarms": int(np.isfinite(times).sum()),
        }

    def _found(self, pool: Pool, drawn: Places) -> dict[str, Any]:
        times = self._times(pool, drawn)
        within = {str(count): round(float((times <= count).mean()), 4) for count in WITHIN}
        surprise = self._reference.surprise(pool.odds, pool.top1)
        return {"surprise": round(float(surprise.mean()), 3), "within": within, "median": _finite(np.median(times))}

    def _bursts(self) -> dict[str, Any]:
        """Video: bursts of one scene through cameras that differ a little, judged by the product's own `Suspicion`."""
        frames = [self._customers[name] for name in ("own distribution", "noise", "compressed")]
        count, alarms = 300, {"bursts of 30 frames": 0, "one still image": 0}
        for _ in range(count):
            scenes = self._draw.integers(0, len(frames[0].odds), SENT // BURST + 1)
            takes = self._draw.integers(0, len(frames), SENT)
            sent = [frames[take].part(scenes[[number // BURST]]) for number, take in enumerate(takes)]
            alarms["bursts of 30 frames"] += self._judged(_joined(sent))
            alarms["one still image"] += self._judged(frames[0].part(np.full(SENT, scenes[0])))
        return {name: {"clients": count, "alarms": found} for name, found in alarms.items()}

    def _judged(self, sent: Pool) -> bool:
        return Suspicion().add(self._reference, sent.odds, sent.top1, sent.shown)

    def _compared(self) -> dict[str, dict[str, float]]:
        """Every detector at a threshold that no more than 0.1 % of the worst kind of known customers reach."""
        calibration = self._kinds(self._known, WINDOWED)
        clients = self._clients(WINDOWED)
        found = {}
        for name, detector in self._detectors.items():
            reached = [np.quantile(detector(pool, drawn), 0.999) for pool, drawn in calibration.values()]
            threshold = float(max(reached))
            found[name] = {
                "worst false alarms": round(
                    max(float((detector(pool, drawn) > threshold).mean()) for pool, drawn in clients.values()), 4
                ),
                **{
                    attack: round(float((detector(pool, self._any(pool, ATTACKERS)) > threshold).mean()), 3)
                    for attack, pool in self._attackers().items()
                },
            }
        return found


def detectors(own: Pool, reference: Reference) -> dict[str, Callable[[Pool, Places], Numbers]]:
    """The highest score [M] of M callers who draw [M, SENT] from a pool, by detector."""
    pooled = np.sort(own.odds)
    lowest, highest = np.quantile(own.odds, (0.01, 0.99))
    edges = np.linspace(lowest, highest, 10)  # bins of equal width, as HODA's epochs are
    usual = np.bincount(np.searchsorted(edges, own.odds), minlength=11) / len(own.odds)
    classes = len(reference.quantiles)
    shares = np.bincount(own.top1, minlength=classes) / len(own.top1)

    def cusum(scores: Numbers, drawn: Places) -> Numbers:
        level = best = np.zeros(len(drawn))
        for places in drawn.T:
            level = np.maximum(0, level + scores[places] - reference.allowance)
            best = np.maximum(best, level)
        return best

    def by_class(pool: Pool, drawn: Places) -> Numbers:
        return cusum(reference.surprise(pool.odds, pool.top1), drawn)

    def of_all(pool: Pool, drawn: Places) -> Numbers:
        return cusum(0.5 - np.searchsorted(pooled, pool.odds) / len(pooled), drawn)

    def hoda(pool: Pool, drawn: Places) -> Numbers:
        counts = _windows(np.searchsorted(edges, pool.odds), drawn, 11)
        centred, expected = counts - counts.mean(2, keepdims=True), usual - usual.mean()
        scale = np.sqrt((centred**2).sum(2) * (expected**2).sum()).clip(1e-9)
        distances: Numbers = (1 - (centred * expected).sum(2) / scale).max(1)
        return distances

    def kolmogorov(pool: Pool, drawn: Places) -> Numbers:
        ranks = (np.searchsorted(pooled, pool.odds) / len(pooled))[drawn].reshape(len(drawn), -1, WINDOW)
        ordered = np.sort(ranks, 2)
        gaps: Numbers = np.abs(ordered - (np.arange(WINDOW) + 0.5) / WINDOW).max((1, 2))
        return gaps

    def chi_square(pool: Pool, drawn: Places) -> Numbers:
        counts = _windows(pool.top1, drawn, classes)
        distances: Numbers = (((counts - WINDOW * shares) ** 2) / (WINDOW * shares)).sum(2).max(1)
        return distances

    return {
        "CUSUM of surprise, by class": by_class,
        "CUSUM of surprise, all classes": of_all,
        "histogram of hardness (after HODA)": hoda,
        "Kolmogorov–Smirnov of certainty": kolmogorov,
        "χ² of classes": chi_square,
    }


def _windows(values: Places, drawn: Places, kinds: int) -> Numbers:
    """How often each value comes in each window of each caller: [M, windows, kinds]."""
    sent = values[drawn].reshape(len(drawn), -1, WINDOW)
    return np.stack([(sent == kind).sum(2) for kind in range(kinds)], 2).astype(np.float64)


def _both(first: Pool, second: Pool) -> Pool:
    return _joined([Pool(pool.odds, pool.top1, pool.shown) for pool in (first, second)])


def _joined(parts: list[Pool]) -> Pool:
    odds, top1, shown = zip(*((part.odds, part.top1, part.shown) for part in parts), strict=True)
    return Pool(np.concatenate(odds), np.concatenate(top1), np.concatenate(shown))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _draw(trials: list[dict[str, Any]]) -> None:
    """Left: the share of attackers found, by how many images they have sent. Right: who hides, and for how long."""
    names = list(trials[0]["attacks"])
    mixed = [name for name in names if "% of the images" in name]
    with drawn(DOCS / "figures" / "extraction_watch.svg", 9, 3.2, ncols=2) as (found, hidden):
        for axes, chosen in ((found, [name for name in names if name not in mixed]), (hidden, [names[0], *mixed])):
            for name in chosen:
                rows = [[trial["attacks"][name]["within"][str(count)] for count in WITHIN] for trial in trials]
                means = [100 * fmean(column) for column in zip(*rows, strict=True)]
                errors = [100 * stdev(column) if len(column) > 1 else 0 for column in zip(*rows, strict=True)]
                axes.errorbar(WITHIN, means, yerr=errors, marker="o", ms=3, lw=1, label=name)
            axes.set_xscale("log")
            axes.set_xticks(WITHIN, [str(count) for count in WITHIN])
            axes.minorticks_off()
            axes.set_xlabel("images sent")
            axes.set_ylim(-3, 103)
            axes.legend(fontsize=5, frameon=False)
        found.set_ylabel("attackers found, %")


if __name__ == "__main__":
    main()

"""What the pixel transforms cost at 224 pixels, one thread: against a copy of the image and against MobileNetV2.

All are timed in turns on the same image; a ratio is the median of those of single turns. A change of layout from HWC
to CHW, which every network input goes through, stands beside them. Prints rows and writes results/transforms.json.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from sdb_client.transforms import BLOCKS, STEPS, Transform
from torchvision.models import mobilenet_v2

from benchmarks.rows import keep
from benchmarks.turns import in_turns, median_us, ratio

SIDE = 224
SCHEMES = (*STEPS, "shf+np", "shf+ffx", "shf+np+scramble", "shf+np+ffx")
TURNS, NETWORK_TURNS = 300, 30


def network_us() -> float:
    """One image through MobileNetV2 with random weights: the fastest turn, so that shares of it err upwards."""
    network, image = mobilenet_v2(weights=None).eval(), torch.rand(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        return round(1e6 * min(in_turns({"network": lambda: network(image)}, NETWORK_TURNS)["network"]), 1)


def measured(scheme: str, block: int, image: np.ndarray, network: float) -> dict[str, object]:
    """One row: a scheme, its first use (keys and index), and both directions after that."""
    started = time.perf_counter()
    secret, steps = bytes(range(32)), scheme.split("+")
    transform = Transform.from_secret(secret, kid="benchmark", model="mobilenet_v2", steps=steps, block=block)
    encrypted = transform.apply(image)
    first = time.perf_counter() - started
    assert np.array_equal(transform.invert(encrypted), image)
    parts: dict[str, Callable[[], object]] = {
        "copy": lambda: np.copy(image),
        "layout": lambda: np.ascontiguousarray(image.transpose(2, 0, 1)),
        "apply": lambda: transform.apply(image),
        "invert": lambda: transform.invert(encrypted),
    }
    times = in_turns(parts, TURNS)
    return {
        "scheme": scheme,
        "block": block,
        **{f"{name}_us": round(median_us(times, name), 1) for name in parts},
        **{f"{name}_per_copy": round(ratio(times, name, "copy"), 1) for name in ("layout", "apply", "invert")},
        "invert_per_network": round(median_us(times, "invert") / network, 5),
        "first_use_ms": round(1e3 * first, 1),
    }


def main() -> None:
    """Time and print."""
    torch.set_num_threads(1)
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    network = network_us()
    print({"network_us": network})
    rows = []
    for scheme in SCHEMES:
        for block in BLOCKS:
            rows.append(measured(scheme, block, image, network))
            print(rows[-1])
    setting = {"numpy": np.__version__, "side": SIDE, "turns": TURNS, "network_us": network}
    keep("transforms", {**setting, "rows": rows})


if __name__ == "__main__":
    main()

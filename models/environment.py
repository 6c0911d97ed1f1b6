"""What a figure needs beside it: machine, versions, commit."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent


def environment() -> dict[str, str]:
    """Facts about this process, for whoever wants to run the same again."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "commit": _commit(),
        "processor": f"{torch.get_num_threads()} threads, {processor()}",
        "gpu": gpu,
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "torchvision")},
    }


def _commit() -> str:
    if not (ROOT / ".git").exists():
        return "unknown"
    describe = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - fixed
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def processor() -> str:
    """What the processor calls itself."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

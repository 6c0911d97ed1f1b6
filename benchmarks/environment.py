"""What a figure needs beside it: machine, versions, commit, command."""

import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent


def environment(module: str) -> dict[str, str]:
    """Facts about this run of `python -m MODULE`."""
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - fixed
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "command": shlex.join(["python", "-m", module, *(Path(part).name for part in sys.argv[1:])]),
        "commit": commit.stdout.strip(),
        "processor": f"{torch.get_num_threads()} threads, {_processor()}",
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""A Ray of this machine, in a process of its own: each line of its input is arguments of `app.ray:build` to deploy.

Run by tests/end_to_end/test_ray.py. Ray warns, and leaves files open, in ways that a test run must not be judged by.
"""

import json
import sys

import ray
from ray import serve

from app.ray import build


def main(port: int) -> None:
    """Deploy what each line asks for, say so, and end with the input."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    for line in sys.stdin:
        serve.run(build(json.loads(line)))
        print("deployed", flush=True)
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))

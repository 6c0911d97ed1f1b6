"""BentoML: two workers, adaptive batching, the image as a file of a form."""

import os
import sys
from pathlib import Path

import bentoml
from PIL.Image import Image

from benchmarks.peers.work import Subject, Work

MAX_BATCH = Subject.read(Path.cwd()).max_batch


@bentoml.service(workers=2, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Classifier:
    """One in each worker."""

    def __init__(self) -> None:
        self.work = Work(Path.cwd())

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=10_000)  # type: ignore[untyped-decorator]
    def predict(self, images: list[Image]) -> list[list[float]]:
        """Classify a batch that BentoML has put together."""
        return self.work.predict([self.work.pixels(image) for image in images])


if __name__ == "__main__":
    bentoml_command = str(Path(sys.executable).with_name("bentoml"))
    service = "benchmarks.peers.bentoml.server:Classifier"
    os.execv(bentoml_command, ["bentoml", "serve", service, "--host", "127.0.0.1", "--port", sys.argv[1]])  # noqa: S606

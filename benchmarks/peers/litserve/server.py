"""LitServe: two workers, batches of what has come within 2 ms, the image as the raw body."""

import sys
from pathlib import Path
from typing import Annotated

import litserve as ls
from fastapi import Depends, Request
from torch import Tensor

from benchmarks.peers.work import Subject, Work


async def body(request: Request) -> bytes:
    """The image; LitServe's own default is JSON or multipart, which would cost it more."""
    return await request.body()


class Classifier(ls.LitAPI):  # type: ignore[misc] # lies in an environment of its own
    """Decode, batch, predict, unbatch, encode."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - the subject says it
        """Once in each worker."""
        self.work = Work(Path.cwd())

    def decode_request(self, request: Annotated[bytes, Depends(body)]) -> Tensor:
        """Bytes to pixels."""
        return self.work.decode(request)

    def batch(self, inputs: list[Tensor]) -> list[Tensor]:
        """Left to `Work`, which stacks."""
        return inputs

    def predict(self, x: list[Tensor]) -> list[list[float]]:
        """One forward pass."""
        return self.work.predict(x)

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        """One answer per request."""
        return output

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        """What becomes JSON."""
        return {"probabilities": output}


if __name__ == "__main__":
    subject = Subject.read(Path.cwd())
    api = Classifier(max_batch_size=subject.max_batch, batch_timeout=0.002)
    server = ls.LitServer(api, accelerator=subject.device, devices=1, workers_per_device=2)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)

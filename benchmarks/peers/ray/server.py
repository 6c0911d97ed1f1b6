"""Ray Serve: two replicas behind its proxy, batches of what has come within 2 ms, the image as the raw body."""

import sys
from pathlib import Path

from ray import serve
from starlette.requests import Request

from benchmarks.peers.work import Subject, Work

FOLDER = Path.cwd()


@serve.deployment(num_replicas=2, max_ongoing_requests=100, ray_actor_options={"num_cpus": 1})
class Classifier:
    """One in each replica."""

    def __init__(self, folder: str) -> None:
        self.work = Work(Path(folder))

    @serve.batch(max_batch_size=Subject.read(FOLDER).max_batch, batch_wait_timeout_s=0.002)
    async def predict(self, images: list[bytes]) -> list[list[float]]:
        """One forward pass."""
        return self.work.predict([self.work.decode(image) for image in images])

    async def __call__(self, request: Request) -> dict[str, list[float]]:
        """Classify the image that is the body."""
        return {"probabilities": await self.predict(await request.body())}


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    application = Classifier.bind(str(FOLDER))  # type: ignore[attr-defined] # the decorator has made it a deployment
    serve.run(application, route_prefix="/predict", blocking=True)

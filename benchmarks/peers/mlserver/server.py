"""MLServer: two inference workers, adaptive batching, the image in base64 in JSON of the V2 protocol."""

import sys
from pathlib import Path

import uvloop
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.work import Subject, Work


class Classifier(MLModel):  # type: ignore[misc] # lies in an environment of its own
    """One in each worker."""

    async def load(self) -> bool:
        """Once."""
        self.work = Work(Path.cwd())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Classify a batch that MLServer has put together."""
        encoded = Base64Codec.decode_input(payload.inputs[0])
        probabilities = self.work.probabilities([self.work.decode(image) for image in encoded]).numpy()
        output = NumpyCodec.encode_output("probabilities", probabilities)
        return InferenceResponse(model_name=self.name, outputs=[output])


async def serve(port: int) -> None:
    """Until a signal comes; what `mlserver start` makes of two files of settings."""
    settings = Settings(
        debug=False,
        host="127.0.0.1",
        http_port=port,
        grpc_port=port + 1,
        metrics_endpoint=None,
        parallel_workers=2,
        logging_settings={"version": 1, "disable_existing_loggers": True},
    )
    model = ModelSettings(
        name="classifier",
        implementation="benchmarks.peers.mlserver.server.Classifier",
        max_batch_size=Subject.read(Path.cwd()).max_batch,
        max_batch_time=0.002,
        parameters=ModelParameters(),
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))

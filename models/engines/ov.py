"""The engine of OpenVINO on the CPU.

Knows compiled models and their requests; float32 throughout.
"""

import threading

import openvino

from models.data import Pixels
from models.engines.cores import Cores
from models.engines.engine import Answering, Logits, Rights
from models.engines.graph import Feed


class OpenVino:
    """Runs the graph of a box, each worker in a stream and with a request of its own."""

    name = "openvino"

    def __init__(self, answering: Answering, graph: bytes, cores: Cores) -> None:
        core = openvino.Core()
        self._model = core.compile_model(
            core.read_model(graph),
            "CPU",
            {
                "NUM_STREAMS": cores.workers,
                "INFERENCE_NUM_THREADS": cores.workers * cores.threads,
                "INFERENCE_PRECISION_HINT": "f32",
                "ENABLE_CPU_PINNING": False,  # the streams share their cores with the rest of the server
            },
        )
        self._feed = Feed(answering, (given.any_name for given in self._model.inputs))
        self._own = threading.local()

    def __call__(self, pixels: Pixels, keyed: Rights, unlocked: Rights) -> Logits:
        """As `Engine`; the interpreter's lock is free while it runs."""
        if not hasattr(self._own, "request"):
            self._own.request = self._model.create_infer_request()
        answer = self._own.request.infer(self._feed(pixels, keyed, unlocked), share_inputs=True)
        logits: Logits = answer[0]
        return logits

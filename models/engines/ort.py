"""The engine of ONNX Runtime on the CPU.

Knows sessions; float32 throughout, as the graph says.
"""

import onnxruntime

from models.data import Pixels
from models.engines.cores import Cores
from models.engines.engine import Answering, Logits, Rights
from models.engines.graph import Feed

ERRORS_ONLY = 3


class OnnxRuntime:
    """Runs the graph of a box; one session serves all workers."""

    name = "onnxruntime"

    def __init__(self, answering: Answering, graph: bytes, cores: Cores) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.intra_op_num_threads, options.inter_op_num_threads = cores.threads, 1
        # A thread that spins while it waits takes the core from the event loop, the decoders and the other workers.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._feed = Feed(answering, (given.name for given in self._session.get_inputs()))

    def __call__(self, pixels: Pixels, keyed: Rights, unlocked: Rights) -> Logits:
        """As `Engine`; the interpreter's lock is free while it runs."""
        logits: Logits = self._session.run(None, self._feed(pixels, keyed, unlocked))[0]
        return logits

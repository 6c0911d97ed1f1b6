"""Laws of the engines: each answers as torch does, the fastest that does is taken, and what fails costs nothing."""

import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from app.settings import Settings
from models import bundles
from models.bundles import GuardSpec, InputSpec, LockSpec, Manifest
from models.engines import choice
from models.engines.agreement import Disagreement, check, pictures
from models.engines.choice import Choice, Chooser, EngineName, Wanted
from models.engines.cores import Cores
from models.engines.eager import Eager
from models.engines.engine import Answering, Engine, Logits, Rights
from models.engines.graph import export
from models.engines.halving import Halving
from models.engines.memory import MODELS, Memory
from models.engines.ort import OnnxRuntime
from models.engines.race import comparable, fastest, race
from models.key_stream import fingerprint
from models.predictor import Predictor
from models.sealing import Seal
from tests.conftest import CLASSES, SECRET, smooth_images
from tests.cramped import Cramped

CPU = torch.device("cpu")
CORES = Cores(2, 1)
SEAL = Seal(SECRET, "graph")
BOX = GuardSpec(secret_fingerprint=fingerprint(SECRET), confidences=(0.6, 0.9), confidence_edges=(0.3,))
GUARDS = {
    "box": (BOX, None),
    "pair": (BOX.model_copy(update={"own_normalisation": True}), None),
    "locked": (
        GuardSpec(kind="lock", lam=1.0, passes=1, secret_fingerprint=fingerprint(SECRET)),
        LockSpec(steps=("shf", "np", "ffx"), block=4),
    ),
}


def manifest_of(kind: str) -> Manifest:
    guard, lock = GUARDS[kind]
    spec = InputSpec(height=32, width=32)
    return Manifest(name="t", architecture="cifar_resnet8", classes=CLASSES, input=spec, guard=guard, lock=lock)


def answering_of(kind: str) -> Answering:
    """A box with untrained weights and a release stage that knows its images."""
    torch.manual_seed(0)
    box = bundles.assemble(manifest_of(kind), SECRET, bytes(32))
    for layer in box.keyed_network.modules():
        if isinstance(layer, nn.BatchNorm2d) and box.twin is not None:
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    box.release.calibrate(smooth_images(256))
    return Answering(box.eval().requires_grad_(False))


def batch(size: int, seed: int = 9) -> tuple["np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", Rights, Rights]:
    rows = np.arange(size)
    return pictures(size, 32, 32, seed), rows % 2 == 0, rows % 3 == 0


@pytest.fixture(scope="module", params=list(GUARDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def answering(kind: str) -> Answering:
    return answering_of(kind)


@pytest.fixture(scope="module")
def graph(kind: str, answering: Answering, kept: Path) -> bytes:
    known = Memory.of(kept, manifest_of("box"), CPU, CORES, SEAL).graph() if kind == "box" else None
    return known or export(answering, 32, 32)


@pytest.fixture(params=["onnxruntime", "openvino"])
def engine(request: pytest.FixtureRequest, answering: Answering, graph: bytes) -> Engine:
    if request.param == "onnxruntime":
        return OnnxRuntime(answering, graph, CORES)
    if find_spec("openvino") is None:
        pytest.skip("the extra `openvino` is not installed")
    from models.engines.ov import OpenVino  # noqa: PLC0415

    return OpenVino(answering, graph, CORES)


def test_an_engine_answers_any_batch_and_any_rights_as_torch_does(engine: Engine, answering: Answering) -> None:
    for size in (1, 2, 5, 33):
        expected, answer = Eager(answering, CPU)(*batch(size)), engine(*batch(size))
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-4)


def test_an_engine_answers_several_threads_at_once(engine: Engine) -> None:
    given = [batch(1 + number % 5, seed=number) for number in range(24)]
    alone = [engine(*arguments) for arguments in given]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda arguments: engine(*arguments), given))
    for first, second in zip(alone, together, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)


def test_pixels_that_may_not_be_written_to_are_answered(engine: Engine, answering: Answering) -> None:
    """A request's body is such: no copy is made of it where the engine needs none."""
    pixels, *rights = batch(3)
    frozen = np.frombuffer(pixels.tobytes(), np.uint8).reshape(pixels.shape)
    for each in (engine, Eager(answering, CPU)):
        np.testing.assert_array_equal(each(frozen, *rights), each(pixels, *rights))


def test_a_graph_holds_nothing_that_follows_from_the_secret(answering: Answering, graph: bytes) -> None:
    """It lies on disk beside keys that are sealed there."""
    secret = {name: buffer.numpy().tobytes() for name, buffer in answering.secrets.items()}
    long = {name: content for name, content in secret.items() if len(content) >= 64}
    assert {"box.key", "box.release.projection"} <= set(long)
    assert not [name for name, content in long.items() if content[:64] in graph or content[-64:] in graph]


# --- what is chosen ---------------------------------------------------------------------------------------------------


class Shifted:
    """An engine that is off by a little."""

    name = "shifted"

    def __init__(self, engine: Engine, by: float) -> None:
        self._engine, self._by = engine, by

    def __call__(
        self, pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", keyed: Rights, unlocked: Rights
    ) -> Logits:
        return self._engine(pixels, keyed, unlocked) + np.float32(self._by)


@pytest.mark.parametrize(("off", "agrees"), [(1e-6, True), (1e-2, False), (np.nan, False)])
def test_engines_agree_as_far_as_rounding_goes(off: float, agrees: bool) -> None:
    eager = Eager(answering_of("box"), CPU)
    if agrees:
        check(Shifted(eager, off), eager, 32, 32, 1e-4)
    else:
        with pytest.raises(Disagreement):
            check(Shifted(eager, off), eager, 32, 32, 1e-4)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that remembers the first choice."""
    folder = tmp_path_factory.mktemp("engines")
    made = choose(folder)
    assert set(made.timings) >= {"eager", "onnxruntime"}
    assert made.engine.name == fastest(made.timings, "eager")
    return folder


@pytest.fixture
def memory(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "engines"))


def choose(memory: Path | None, engine: EngineName = "auto", manifest: Manifest | None = None) -> Choice:
    wanted = Wanted(engine, CORES, 8, memory)
    return Chooser(answering_of("box"), manifest or manifest_of("box"), CPU, wanted, SEAL).choose()


def test_a_start_takes_what_an_earlier_one_has_found_out(memory: Path) -> None:
    (timings,) = memory.glob("t/*.json")
    timings.write_text(json.dumps({"eager": {"1": 2.0}, "onnxruntime": {"1": 1.0}}))
    assert str(choose(memory)) == "onnxruntime; ms for 1 images: eager 2, onnxruntime 1"
    timings.write_text(json.dumps({"eager": {"1": 1.0}, "onnxruntime": {"1": 2.0}}))
    assert choose(memory).engine.name == "eager"


@pytest.mark.parametrize(
    "damage",
    ["", "null", "[]", '{"eager": 1}', '{"onnxruntime": {"1": 1.0}}'],
)
def test_damaged_timings_are_measured_again(memory: Path, damage: str) -> None:
    (timings,) = memory.glob("t/*.json")
    timings.write_text(damage)
    assert choose(memory).timings
    assert set(json.loads(timings.read_text())) >= {"eager", "onnxruntime"}


def test_a_graph_is_kept_sealed(tmp_path: Path) -> None:
    """It holds a normalisation that its bundle seals; under another secret it is none."""
    memory = Memory.of(tmp_path, manifest_of("box"), CPU, CORES, SEAL)
    memory.keep_graph(b"graph " * 100)
    (file,) = tmp_path.glob("t/*.onnx")
    assert b"graph" not in file.read_bytes()
    assert Memory.of(tmp_path, manifest_of("box"), CPU, CORES, Seal(bytes(32), "graph")).graph() is None


def test_a_damaged_graph_is_none(tmp_path: Path) -> None:
    memory = Memory.of(tmp_path, manifest_of("box"), CPU, CORES, SEAL)
    memory.keep_graph(b"graph")
    assert memory.graph() == b"graph"
    (file,) = tmp_path.glob("t/*.onnx")
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert memory.graph() is None


@pytest.mark.parametrize("change", ["weights", "cores"])
def test_what_was_found_out_of_other_weights_or_cores_does_not_count(tmp_path: Path, change: str) -> None:
    known = Memory.of(tmp_path, manifest_of("box"), CPU, CORES, SEAL)
    known.keep_graph(b"graph")
    known.keep_timings({"eager": {1: 1.0}})
    weights = {"sha256": {bundles.WEIGHTS: "0" * 64}} if change == "weights" else {}
    other = Memory.of(tmp_path, manifest_of("box").model_copy(update=weights), CPU, Cores(1, 2), SEAL)
    assert other.timings() is None
    assert (other.graph() is None) == (change == "weights")
    other.keep_timings({"eager": {1: 2.0}})
    assert other.timings() == {"eager": {1: 2.0}}
    assert len(list(tmp_path.glob("t/*.json"))) == 1  # what nobody will ask for is gone


@pytest.mark.parametrize("file", ["guard.py", "engines/engine.py", "engines/graph.py"])
def test_what_was_exported_by_other_code_does_not_count(
    tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = Path(shutil.copytree(MODELS, tmp_path / "models", ignore=shutil.ignore_patterns("zoo", "__pycache__")))
    monkeypatch.setattr("models.engines.memory.MODELS", code)

    def known() -> Memory:
        return Memory.of(tmp_path, manifest_of("box"), CPU, CORES, SEAL)

    before = known()
    assert before == known()
    (code / file).write_text((code / file).read_text() + "\n")
    assert before.graph_key != known().graph_key


def test_what_cannot_be_kept_leaves_no_piece_of_itself(tmp_path: Path) -> None:
    known = Memory.of(tmp_path, manifest_of("box"), CPU, CORES, SEAL)
    (known.folder / f"{known.graph_key}.onnx" / "in the way").mkdir(parents=True)
    for _ in range(3):
        known.keep_graph(b"graph")
    assert len(list(known.folder.iterdir())) <= 2


def test_a_folder_that_cannot_be_written_to_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory = Memory.of(tmp_path / "file", manifest_of("box"), CPU, CORES, SEAL)
    memory.keep_graph(b"graph")
    with memory.alone():
        assert memory.graph() is None


@pytest.mark.parametrize("engine", ["auto", "onnxruntime"])
def test_an_engine_that_disagrees_is_not_chosen(
    memory: Path, engine: EngineName, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choice, "TOLERANCE", 0.0)  # not even rounding is allowed
    (timings,) = memory.glob("t/*.json")
    timings.write_text(json.dumps({"eager": {"1": 2.0}, "onnxruntime": {"1": 1.0}}))
    assert choose(memory, engine).engine.name == "eager"
    assert "does not run on onnxruntime: Disagreement" in caplog.text


def test_an_engine_that_does_not_work_here_costs_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert choose(None, "graphs").engine.name == "eager"
    (line,) = caplog.messages
    assert line.startswith("model t does not run on graphs: ")


@pytest.mark.slow
def test_compiled_code_answers_as_torch_does_and_leaves_no_key_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    answering = answering_of("box")
    assert choose(None, "compile").engine.name == "compile"
    key = answering.secrets["box.key"].numpy().tobytes()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if key[:64] in file.read_bytes()]


class Clock:
    """In the place of `time`: only engines move it on."""

    now = 0.0

    def perf_counter(self) -> float:
        """Seconds."""
        return self.now


class Slow:
    """An engine that takes a known time, and counts."""

    def __init__(self, name: str, seconds: float, clock: Clock) -> None:
        self.name, self._seconds, self._clock, self.rows = name, seconds, clock, list[int]()

    def __call__(
        self, pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", keyed: Rights, unlocked: Rights
    ) -> Logits:
        self._clock.now += self._seconds * len(pixels)
        self.rows.append(len(pixels))
        return np.zeros((len(keyed | unlocked), 2), np.float32)


def test_a_race_is_won_by_the_fastest_and_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("models.engines.race.time", clock)
    engines = {"slow": Slow("slow", 0.01, clock), "fast": Slow("fast", 0.003, clock)}
    timings = race(engines, 8, 8, most=32, seconds=0.4)
    assert clock.now < 0.4 + 32 * 0.013
    assert fastest(timings, "slow") == "fast"
    assert engines["slow"].rows == engines["fast"].rows  # in turns
    assert 32 not in race(engines, 8, 8, most=32, seconds=0.2)["fast"]  # a batch of which would take too long


@pytest.mark.parametrize(("other", "winner"), [(0.99, "eager"), (0.5, "other"), (1.5, "eager")])
def test_torch_is_replaced_only_by_what_is_clearly_faster(other: float, winner: str) -> None:
    assert fastest({"eager": {1: 1.0, 8: 4.0}, "other": {1: other, 8: 4 * other}}, "eager") == winner


@pytest.mark.parametrize("ms", [0.0, -1.0, np.nan])
def test_timings_that_took_no_time_are_none(ms: float) -> None:
    assert comparable({"eager": {1: 1.0}, "other": {1: 2.0}}, "eager")
    assert not comparable({"eager": {1: 1.0}, "other": {1: ms}}, "eager")


def test_settings_know_every_engine() -> None:
    assert set(get_args(Settings.model_fields["engine"].annotation)) == set(get_args(EngineName))


# --- memory that does not suffice -------------------------------------------------------------------------------------


def test_a_batch_without_room_is_answered_in_halves() -> None:
    answering = answering_of("box")
    expected = Eager(answering, CPU)(*batch(7))
    cramped = answering.box.network = Cramped(answering.box.network, most=4)  # two rows of two views
    answer = Halving(Eager(answering, CPU))(*batch(7))
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-4)
    assert [seen // 2 for seen in cramped.seen] == [7, 3, 1, 2, 4, 2, 2]


def test_a_row_without_room_is_an_error() -> None:
    answering = answering_of("box")
    answering.box.network = Cramped(answering.box.network, most=1)
    with pytest.raises(torch.OutOfMemoryError):
        Halving(Eager(answering, CPU))(*batch(3))


# --- cores ------------------------------------------------------------------------------------------------------------


def test_cores_are_shared_out_without_rest_to_speak_of() -> None:
    for count in range(1, 130):
        cores = Cores.share(count)
        assert count / 2 < cores.workers * cores.threads <= count
        assert cores.threads <= 2 * cores.workers


def test_two_cores_run_two_batches_side_by_side() -> None:
    assert Cores.share(2) == Cores(2, 1)


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_gpu(zoo: Path) -> tuple[Predictor, Predictor]:
    """The same bundle in float32 on the CPU, and as CUDA graphs of up to 8 rows."""
    return (
        Predictor(zoo / "tiny", SECRET, CPU),
        Predictor(zoo / "tiny", SECRET, torch.device("cuda"), wanted=Wanted("graphs", CORES, 8)),
    )


@pytest.mark.gpu
def test_graphs_answer_batches_of_any_size_in_any_thread(on_gpu: tuple[Predictor, Predictor]) -> None:
    cpu, gpu = on_gpu
    assert gpu.choice.engine.name == "graphs"
    given = [batch(size, seed=size) for size in (1, 3, 8, 20) * 5]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda arguments: gpu(*arguments), given))
    for arguments, answer in zip(given, answers, strict=True):
        true = cpu(arguments[0], np.ones_like(arguments[1]))
        _, second, first = np.split(np.sort(true, 1), [-2, -1], 1)
        rows = arguments[1] | ((first - second)[:, 0] > 6e-2 * np.abs(true).max(1).clip(1))
        scale = np.abs(cpu(*arguments)).max(1, keepdims=True).clip(1)
        np.testing.assert_allclose((answer / scale)[rows], (cpu(*arguments) / scale)[rows], atol=3e-2)

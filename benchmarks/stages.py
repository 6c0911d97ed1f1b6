"""Where a request's time goes: each stage of a prediction alone, in this process, one after the other.

One plain JPEG of the model's size, one request at a time, the shipped model. A stage's time is the least of several
rounds' medians: what else runs on the machine only ever adds to it. What no stage explains is the web framework's:
middleware, routing, headers.
"""

import argparse
import asyncio
import io
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import uvicorn
import uvloop
from fastapi import FastAPI
from PIL import Image
from starlette.types import Message, Receive, Scope, Send

from app import images
from app.answers import Answer, as_json, probabilities_of
from app.batching import Batcher
from app.hosting import Rows
from app.main import create_app
from app.pipeline import Services
from app.responses import response
from app.settings import ZOO, Settings
from benchmarks.rows import keep, show
from keys.budget_store import Ask
from keys.records import Act, BudgetGrant, KeyGrant, Origin
from models.data import Pixels
from models.views import View

EXAMPLE = Path(__file__).parent.parent / "docs" / "example.png"
MODEL, BATCH = "cifar10", 32
Step = Callable[[], Awaitable[object]]


def main() -> None:
    """Measure, print a table and write results/stages.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=100)
    arguments = parser.parse_args()
    _report(uvloop.run(_measured(arguments.rounds, arguments.calls)))


async def _measured(rounds: int, calls: int) -> dict[str, float]:
    """Microseconds of each stage, and of whole requests."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(state_dir=Path(folder), models_dir=ZOO, log_requests=False))
        async with app.router.lifespan_context(app):
            steps = await _steps(app)
            medians: dict[str, list[float]] = {name: [] for name in steps}
            for _ in range(rounds):
                for name, step in steps.items():
                    medians[name].append(await _median_us(step, calls))
    return {name: min(found) for name, found in medians.items()}


async def _median_us(step: Step, calls: int) -> float:
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        await step()
        times.append(1e6 * (time.perf_counter() - began))
    return statistics.median(times)


async def _steps(app: FastAPI) -> dict[str, Step]:
    services: Services = app.state.services
    encoded, pixels = _picture(services)
    model = services.models[MODEL]
    logits = (await model.submit(Rows(pixels, keyed=False))).logits
    hollow: Batcher[Pixels, Pixels] = Batcher(lambda parts: parts[0], max_batch=BATCH, queue_limit=BATCH)
    await hollow.start()
    view = View(*(pixels.shape[1] // 8,) * 2)

    async def decode() -> object:
        return images.decode(encoded, 10**6)

    async def soften() -> object:
        return probabilities_of(logits, 1.0)

    async def write() -> object:
        answer = Answer(model.manifest, False, logits, logits, [[view]], None, False, ())
        return response(as_json(answer, 5, "id"), "application/json", {})

    return {
        "decode": decode,
        "hand-over to a worker and back": lambda: hollow.submit(pixels),
        "hand-over and model, one image": lambda: model.submit(Rows(pixels, keyed=False)),
        f"hand-over and model, {BATCH} images": lambda: model.submit(Rows(np.repeat(pixels, BATCH, 0), keyed=False)),
        "softmax": soften,
        "JSON": write,
        "admission and settlement of a key": await _admission(services),
        "request of a stranger": lambda: _request(app, encoded, ()),
        "request of a key": await _keys_request(app, encoded),
        "HTTP alone": await _http_alone(encoded),
    }


def _picture(services: Services) -> tuple[bytes, Pixels]:
    """An image of the model's size as a JPEG, and its pixels uint8 [1, H, W, 3]."""
    spec, buffer = services.models[MODEL].manifest.input, io.BytesIO()
    with Image.open(EXAMPLE) as image:
        image.convert("RGB").resize((spec.width, spec.height)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue(), np.asarray(images.decode(buffer.getvalue(), 10**6))[None]


async def _key(services: Services) -> str:
    grant = KeyGrant(name="stages", scopes=frozenset({"predict", "distill"}), budget=BudgetGrant(limit=10**9))
    return (await services.keys.lifecycle.create(grant, Act("benchmark", "", None))).api_key


async def _admission(services: Services) -> Step:
    api_key = await _key(services)

    async def step() -> None:
        caller = await services.keys.recall(api_key, Origin())
        await services.keys.settle(await services.keys.admit(caller, Ask(1, 1, MODEL)))

    return step


async def _keys_request(app: FastAPI, encoded: bytes) -> Step:
    credential = (b"authorization", b"Bearer " + (await _key(app.state.services)).encode())
    return lambda: _request(app, encoded, (credential,))


async def _request(app: FastAPI, body: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    """One request as a server hands it to the application."""
    path = f"/v1/models/{MODEL}/predict"
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"box"), (b"content-length", str(len(body)).encode()), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        assert message.get("status", 200) == 200, message

    await app(scope, receive, send)


async def _http_alone(body: bytes) -> Step:
    """A request to the same server with an application that only reads it, and its client, over a socket."""

    async def hollow(_: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"400")]})
        await send({"type": "http.response.body", "body": b"0" * 400})

    config = uvicorn.Config(
        hollow, port=0, lifespan="off", http="httptools", log_config=None, access_log=False, timeout_keep_alive=3600
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    reader, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname()[:2])
    head = f"POST / HTTP/1.1\r\nHost: box\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def step() -> object:
        writer.write(head + body)
        await reader.readuntil(b"\r\n\r\n")
        return await reader.readexactly(400)

    return step


def _report(us: dict[str, float]) -> None:
    """The stages of one request, and what is left of the whole for the framework."""
    waiting = us["hand-over to a worker and back"]
    stages = {
        "HTTP: parsing, sockets, and the client's side": us["HTTP alone"],
        "decode": us["decode"],
        "hand-over to a worker and back": waiting,
        "model, one image": us["hand-over and model, one image"] - waiting,
        "softmax": us["softmax"],
        "JSON": us["JSON"],
    }
    inside = sum(stages.values()) - us["HTTP alone"]
    stages["middleware, routing, headers: the rest"] = us["request of a stranger"] - inside
    stages["a stranger's request in all"] = us["request of a stranger"] + us["HTTP alone"]
    stages["more for a key: admission and settlement, embedded store"] = us["admission and settlement of a key"]
    stages["a key's request in all"] = us["request of a key"] + us["HTTP alone"]
    stages[f"model, for each of {BATCH} images"] = (us[f"hand-over and model, {BATCH} images"] - waiting) / BATCH
    rows = [{"stage": name, "us": round(time_us, 1)} for name, time_us in stages.items()]
    show(f"one request to {MODEL}, one at a time", rows)
    keep("stages", {"rows": rows})


if __name__ == "__main__":
    main()

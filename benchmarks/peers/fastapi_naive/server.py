"""FastAPI as most people write it: a plain function in the thread pool, one image a forward pass, a dict returned."""

from pathlib import Path
from typing import Annotated

from fastapi import Body, FastAPI

from benchmarks.peers.work import Work

app = FastAPI()
work = Work(Path.cwd())


@app.post("/predict")
def predict(image: Annotated[bytes, Body(media_type="image/jpeg")]):  # type: ignore[no-untyped-def] # noqa: ANN201
    """Classify the image that is the body; with a return type, FastAPI would write the answer in another way."""
    return {"probabilities": work.predict([work.decode(image)])[0]}

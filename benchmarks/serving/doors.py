"""How each kind of server is asked for a prediction: the whole HTTP request, and where its answer has the numbers.

Knows wire formats; knows no process and no model.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

BOUNDARY = "----------------benchmark"


@dataclass(frozen=True)
class Door:
    """`request` makes an HTTP/1.1 request of an image, `probabilities` reads a JSON answer to it."""

    request: Callable[[bytes], bytes]
    probabilities: Callable[[Any], list[float]]


def http(path: str, body: bytes, **headers: str) -> bytes:
    """A POST of `body`; an underscore in the name of a header is a hyphen."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Accept: */*", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


RAW = Door(
    lambda image: http("/predict", image, Content_Type="image/jpeg"), lambda answer: list(answer["probabilities"])
)


def _form(image: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="image.jpg"\r\n'
    body = f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
    return http("/predict", body, Content_Type=f"multipart/form-data; boundary={BOUNDARY}")


FORM = Door(_form, lambda answer: list(answer[0]))


def _v2(image: bytes) -> bytes:
    tensor = {
        "name": "image",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(image).decode()],
    }
    return http("/v2/models/classifier/infer", json.dumps({"inputs": [tensor]}).encode())


V2 = Door(_v2, lambda answer: list(answer["outputs"][0]["data"]))


def ours(model: str, **headers: str) -> Door:
    """This product's own door."""
    return Door(
        lambda image: http(f"/v1/models/{model}/predict", image, Content_Type="image/jpeg", **headers),
        lambda answer: list(answer["predictions"][0]["probabilities"]),
    )


def bulk(model: str, pixels: NDArray[Any]) -> bytes:
    """Many images uint8 [N, H, W, 3] in one call of the Open Inference Protocol, binary both ways."""
    asked: Mapping[str, object] = {
        "inputs": [
            {
                "name": "image",
                "shape": list(pixels.shape),
                "datatype": "UINT8",
                "parameters": {"binary_data_size": pixels.nbytes},
            }
        ],
        "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}],
    }
    head = json.dumps(asked).encode()
    return http(
        f"/v2/models/{model}/infer",
        head + pixels.tobytes(),
        Content_Type="application/octet-stream",
        Inference_Header_Content_Length=str(len(head)),
    )

"""A clinic asks about an image that nobody in between may see. Needs the file that the admin has handed over."""

import sys
from pathlib import Path

from sdb_client import Client, NewKey
from sdb_client.errors import UndecryptableImage

key = NewKey.from_json(Path(sys.argv[1]).read_bytes())
image = Path(sys.argv[2])
with Client(key.api_key) as client:
    answer = client.predict(image, "cifar10", image_key=key.image_key)
    print(f"{answer.predictions[0].label}, and {answer.budget.remaining if answer.budget else 'no'} answers are left")

    message = client.encrypt.sealed(image, key.image_key, model="cifar10") if key.image_key else b""
    print(f"{image.stat().st_size} bytes, sealed {len(message)}; they begin {message[:4].hex(' ')}")
    client.predict(message, "cifar10", encryption="sealed")
    try:
        client.predict(message, "cifar10", encryption="sealed")
    except UndecryptableImage as refusal:
        print(f"sent again: {refusal.status} {refusal.code}")

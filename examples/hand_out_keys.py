"""Give each partner of a table a key, in a file of its own that only you can read; run again, it goes on.

    SDB_API_KEY=$(cat var/admin.key) python examples/hand_out_keys.py partners.csv keys/

The table has a line `name,budget,expires_at` for each partner. A file that is there is left alone, and the name of a
request follows from the table's line: a run that was cut off between the server's answer and our disk gets the same
key.
"""

import csv
import hashlib
import re
import sys
from pathlib import Path

from sdb_client import Client

table, folder = Path(sys.argv[1]), Path(sys.argv[2])
folder.mkdir(mode=0o700, exist_ok=True)
with Client() as admin, table.open(newline="") as lines:
    for partner in csv.DictReader(lines):
        file = folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', partner['name']).strip('-').lower()}.json"
        if file.exists():
            print(f"{partner['name']}: has {file.name}")
            continue
        key = admin.keys.create(
            partner["name"],
            scopes=["distill"],
            budget={"limit": int(partner["budget"]), "refill": "none"},
            expires_at=partner["expires_at"] or None,
            idempotency_key=hashlib.sha256(repr(sorted(partner.items())).encode()).hexdigest(),
        )
        part = file.with_suffix(".part")
        part.touch(mode=0o600)
        part.write_bytes(key.to_json())
        part.rename(file)
        print(f"{key.name}: {key.id}, {key.budget.remaining} answers, in {file.name}")

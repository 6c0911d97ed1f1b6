"""An admin hands out a key: rights, a budget, an image key; and looks after it. Needs SDB_API_KEY of an admin."""

import sys
from pathlib import Path

from sdb_client import Client

with Client() as admin:
    key = admin.keys.create(
        "partner",
        scopes=["distill", "decrypt"],
        models=["cifar10"],
        budget={"limit": 1000, "refill": "monthly"},
        rate_limits=[{"name": "burst", "limit": 600, "window_s": 60}],
        image_key={"scheme": "sealed"},
    )
    file = Path(sys.argv[1])
    file.touch(mode=0o600)
    file.write_bytes(key.to_json())  # the secrets are in this answer and nowhere else
    print(f"{key.name} may {', '.join(key.scopes)}; {key.budget.remaining} answers in {file.name}")

    admin.keys.update(key.id, metadata={"contract": "7/2026"})
    budget = admin.keys.top_up(key.id, 500, idempotency_key=f"invoice-8-2026-{key.id}").budget
    print(f"{budget.remaining} answers, {budget.granted} of them granted once")

    with_contract = [found.name for found in admin.keys.list(search="7/2026")]
    print(f"keys of contract 7/2026: {', '.join(with_contract)}")
    for entry in admin.audit.list(target=key.id):
        print(f"{entry.seq:3} {entry.action}")
    print("the audit log is", "whole" if admin.audit.verify().intact else "broken")

"""How tests let the admin change keys, and look at what became of them."""

from typing import Any

from tests.conftest import Api, bearer

KEYS, SELF = "/admin/v1/keys", "/v1/keys/self"
Json = dict[str, Any]


async def change(api: Api, key: Json, act: str, body: object = None) -> Json:
    """What the admin is told of a change that is made."""
    answer = await api.client.post(f"{KEYS}/{key['id']}/{act}", json=body, headers=api.admin)
    assert answer.status_code == 200, answer.text
    changed: Json = answer.json()
    return changed


async def patch(api: Api, key: Json, **fields: object) -> Json:
    """What the admin is told of a patch that is made."""
    answer = await api.client.patch(f"{KEYS}/{key['id']}", json=fields, headers=api.admin)
    assert answer.status_code == 200, answer.text
    changed: Json = answer.json()
    return changed


async def show(api: Api, key: Json) -> Json:
    """The key as the admin sees it now."""
    shown: Json = (await api.client.get(f"{KEYS}/{key['id']}", headers=api.admin)).json()
    return shown


async def status(api: Api, credential: str) -> int:
    """200 if the credential is accepted, 401 if it is not."""
    return (await api.client.get(SELF, headers=bearer(credential))).status_code


def without_secrets(key: Json) -> Json:
    """A key that was just made, as it is shown later."""
    return {field: value for field, value in key.items() if field != "api_key"}

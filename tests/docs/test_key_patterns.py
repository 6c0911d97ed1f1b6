"""The patterns that docs/keys.md publishes find lost API keys, in the three scanners that it names."""

import re
import tomllib
from collections.abc import Callable

from keys.material import new_api_key
from tests.conftest import ROOT

KEYS_GUIDE = (ROOT / "docs" / "keys.md").read_text()


def test_the_published_patterns_find_api_keys_and_nothing_shorter_or_longer() -> None:
    fenced = dict(re.findall(r"```(toml|yaml)\n(.*?)```", KEYS_GUIDE, re.DOTALL))
    (rule,) = tomllib.loads(fenced["toml"])["rules"]
    yaml = re.search(r"key: '(.*)'", fenced["yaml"])
    bare = re.search(r"^sdb_\(adm.*$", KEYS_GUIDE, re.MULTILINE)
    assert yaml
    assert bare
    assert f"secret format `{bare[0]}`" in KEYS_GUIDE
    for kind in ("adm", "cli"):
        api_key = new_api_key(kind)
        for pattern in (rule["regex"], yaml[1]):
            for text in (f'token = "{api_key}"', f"Bearer {api_key}", api_key):
                found = re.search(pattern, text)
                assert found
                assert found[1] == api_key
            assert not re.search(pattern, api_key[:-1])
            assert not re.search(pattern, api_key + "0")
        assert re.fullmatch(bare[0], api_key)
        assert any(word in api_key for word in rule["keywords"])


def test_the_published_checksum_tells_api_keys_from_look_alikes() -> None:
    found = re.search(r"```python\n(import zlib.*?)```", KEYS_GUIDE, re.DOTALL)
    assert found
    api_key = new_api_key("cli")
    other = "a" if api_key[10] != "a" else "b"
    altered = api_key[:10] + other + api_key[11:]
    published: dict[str, Callable[[str], bool]] = {}
    exec(found[1], published)  # noqa: S102 - the guide's own code
    assert published["is_api_key"](api_key)
    assert not published["is_api_key"](altered)

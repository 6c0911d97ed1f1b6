"""The environment becomes settings, or one clear line."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import ZOO, Settings, SettingsError

SECRET = "QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8"


def test_an_empty_environment_gives_the_defaults_of_the_contract() -> None:
    settings = Settings.from_environment({})
    assert (settings.host, settings.port, settings.state_dir) == ("127.0.0.1", 8000, Path("var"))
    assert (settings.models_dir, settings.device, settings.redis_url.get_secret_value()) == (ZOO, "auto", "")
    assert (settings.max_body_bytes, settings.max_image_pixels) == (16 * 2**20, 25_000_000)
    assert (settings.max_images_per_request, settings.anonymous) == (256, True)
    assert (settings.token_lifetime_s, settings.log_format) == (900, "console")


def test_every_setting_is_read_from_the_variable_of_its_name() -> None:
    given = {
        "SDB_HOST": "0.0.0.0",  # noqa: S104 - only parsed
        "SDB_PORT": "9000",
        "SDB_STATE_DIR": "/srv/sdb",
        "SDB_REDIS_URL": "redis://store:6379/1",
        "SDB_MODELS_DIR": "/srv/zoo",
        "SDB_DEVICE": "cuda:1",
        "SDB_MASTER_KEY": SECRET,
        "SDB_TOKEN_KEYS": f"{SECRET},{SECRET}",
        "SDB_MAX_BATCH": "8",
        "SDB_BATCH_WAIT_MS": "2.5",
        "SDB_QUEUE_LIMIT": "16",
        "SDB_MAX_BODY_BYTES": "2048",
        "SDB_MAX_IMAGE_PIXELS": "1000",
        "SDB_MAX_IMAGES_PER_REQUEST": "3",
        "SDB_ANONYMOUS": "false",
        "SDB_LOG_FORMAT": "json",
    }
    settings = Settings.from_environment(given)
    assert (settings.host, settings.port) == ("0.0.0.0", 9000)  # noqa: S104 - only parsed
    assert (settings.state_dir, settings.models_dir) == (Path("/srv/sdb"), Path("/srv/zoo"))
    assert settings.redis_url.get_secret_value() == "redis://store:6379/1"
    assert settings.master_key.get_secret_value() == SECRET
    assert settings.token_keys.get_secret_value() == f"{SECRET},{SECRET}"
    assert (settings.device, settings.max_batch, settings.batch_wait_ms, settings.queue_limit) == ("cuda:1", 8, 2.5, 16)
    assert (settings.max_body_bytes, settings.max_image_pixels, settings.max_images_per_request) == (2048, 1000, 3)
    assert (settings.anonymous, settings.log_format) == (False, "json")


def test_variables_of_other_programs_are_ignored() -> None:
    assert Settings.from_environment({"PATH": "/bin", "PORT": "1", "XSDB_PORT": "2"}) == Settings()


def test_what_the_client_library_reads_is_no_setting_of_the_server_and_no_mistake() -> None:
    of_callers = {"SDB_API_KEY": "sdb_cli_key", "SDB_BASE_URL": "http://box"}
    assert Settings.from_environment(of_callers) == Settings()


@pytest.mark.parametrize("variable", ["SDB_MASTERKEY", "SDB_", "SDB_HOST_FILE", "SDB_PORT_FILE"])
def test_an_unknown_variable_is_refused_by_name(variable: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable} is not a setting$"):
        Settings.from_environment({variable: "x"})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SDB_PORT", "65536"),
        ("SDB_PORT", "-1"),
        ("SDB_PORT", ""),
        ("SDB_PORT", "eighty"),
        ("SDB_DEVICE", "tpu"),
        ("SDB_DEVICE", "cuda:"),
        ("SDB_DEVICE", "cpu\n"),
        ("SDB_MAX_BATCH", "0"),
        ("SDB_BATCH_WAIT_MS", "nan"),
        ("SDB_BATCH_WAIT_MS", "-1"),
        ("SDB_QUEUE_LIMIT", "0"),
        ("SDB_MAX_BODY_BYTES", "1.5"),
        ("SDB_MAX_IMAGE_PIXELS", "0"),
        ("SDB_MAX_IMAGES_PER_REQUEST", "0"),
        ("SDB_TOKEN_LIFETIME_S", "1"),
        ("SDB_ANONYMOUS", "maybe"),
        ("SDB_LOG_FORMAT", "xml"),
        ("SDB_TRUSTED_PROXIES", "127.0.0.1 nowhere"),
        ("SDB_BUNDLE_SIGNERS", "short"),
    ],
)
def test_a_value_that_cannot_be_used_is_one_line_that_names_its_variable(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({variable: value})
    assert str(caught.value).startswith(f"{variable}: ")
    assert "\n" not in str(caught.value)


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    for name in ("master_key", "token_keys", "redis_url"):
        settings = Settings.from_environment({f"SDB_{name.upper()}_FILE": str(tmp_path / "secret")})
        assert getattr(settings, name).get_secret_value() == SECRET


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    given = {"SDB_MASTER_KEY": SECRET, "SDB_MASTER_KEY_FILE": str(tmp_path / "secret")}
    for environment in (given, dict(reversed(given.items()))):
        with pytest.raises(SettingsError, match="both given"):
            Settings.from_environment(environment)


def test_a_secret_file_that_cannot_be_read_is_one_line_that_names_its_variable(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe" * 16)
    for path in (tmp_path / "missing", tmp_path, tmp_path / "binary"):
        with pytest.raises(SettingsError) as caught:
            Settings.from_environment({"SDB_MASTER_KEY_FILE": str(path)})
        assert str(caught.value).startswith("SDB_MASTER_KEY_FILE: ")
        assert "\n" not in str(caught.value)


def test_an_empty_secret_file_is_not_taken_for_no_secret(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(SettingsError, match="SDB_MASTER_KEY"):
        Settings.from_environment({"SDB_MASTER_KEY_FILE": str(tmp_path / "empty")})


def test_strangers_are_limited_unless_the_server_itself_listens_on_loopback() -> None:
    assert Settings().anonymous_rate is None
    for exposed in ({"host": "0.0.0.0"}, {"fd": 3}):  # noqa: S104 - nothing listens
        assert Settings.model_validate(exposed).anonymous_rate is not None
        assert Settings.model_validate({**exposed, "anonymous_per_minute": 0}).anonymous_rate is None


def test_a_repr_shows_no_secret() -> None:
    given = {"SDB_MASTER_KEY": SECRET, "SDB_TOKEN_KEYS": SECRET, "SDB_REDIS_URL": "redis://:hunter2@store"}
    settings = Settings.from_environment(given)
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert SECRET not in text
        assert "hunter2" not in text


def test_settings_do_not_change_after_the_start() -> None:
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1

"""Settings: every source, their order, and errors that name the key and where it was read."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enseada import config, values
from enseada.config import SETTINGS, ConfigError, Secret, Settings, load
from enseada.limits import Limits
from enseada.values import Address, parse_address


def write(folder: Path, text: str) -> Path:
    file = folder / "enseada.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_nothing_given_is_the_defaults() -> None:
    loaded = load(None, {"PATH": "/bin"}, {})
    assert loaded.settings == Settings()
    assert set(loaded.sources.values()) == {config.DEFAULT}
    assert loaded.settings.listen == ("127.0.0.1:9623",)
    assert loaded.settings.documents_path == Path("enseada-data/documents.sqlite")
    assert loaded.settings.blobs_path == Path("enseada-data/blobs")
    assert loaded.settings.lock_path == Path("enseada-data/lock")


def test_sources_rise_in_strength(tmp_path: Path) -> None:
    file = write(tmp_path, 'grace = 1\nlease_time = "2s"\nsave_interval = 3\n[limits]\nhead_bytes = "64KiB"\n')
    environ = {"ENSEADA_LEASE_TIME": "20", "ENSEADA_SAVE_INTERVAL": "30", "ENSEADA_LIMITS_HEAD_COUNT": "7"}
    loaded = load(file, environ, {"save_interval": "5m", "grace": None})
    assert (loaded.settings.grace, loaded.settings.lease_time, loaded.settings.save_interval) == (1, 20, 300)
    assert loaded.settings.limits == Limits(head_bytes=65536, head_count=7)
    assert loaded.sources["grace"] == f"the file {file}"
    assert loaded.sources["lease_time"] == "the variable ENSEADA_LEASE_TIME"
    assert loaded.sources["save_interval"] == "the flag --save-interval"
    assert loaded.sources["limits.head_bytes"] == f"the file {file}"
    assert loaded.sources["anonymous"] == "default"


def test_the_file_may_be_named_by_a_variable_and_a_flag_is_stronger(tmp_path: Path) -> None:
    file = write(tmp_path, "grace = 1")
    assert load(None, {"ENSEADA_CONFIG": str(file)}, {}).settings.grace == 1
    other = tmp_path / "other.toml"
    other.write_text("grace = 2")
    assert load(other, {"ENSEADA_CONFIG": str(file)}, {}).settings.grace == 2


def test_every_kind_of_value_from_text() -> None:
    environ = {
        "ENSEADA_LISTEN": "127.0.0.1:0, unix:/run/e.sock",
        "ENSEADA_DATA": "/srv/e",
        "ENSEADA_ANONYMOUS": "pull",
        "ENSEADA_ADMIN_PASSWORD": "sésame",
        "ENSEADA_CREATE_ON_PUSH": "false",
        "ENSEADA_MAX_BLOB_BYTES": "1.5GiB",
        "ENSEADA_PASSWORD_QUEUE": "0",
        "ENSEADA_LIMITS_DRAIN_TIMEOUT": "250ms",
        "ENSEADA_TEST_ANYTHING": "x",
    }
    settings = load(None, environ, {}).settings
    assert settings.listen == ("127.0.0.1:0", "unix:/run/e.sock")
    assert settings.addresses == (Address("127.0.0.1", 0), Address(path="/run/e.sock"))
    assert settings.data == Path("/srv/e")
    assert settings.anonymous == "pull"
    assert settings.admin_password == Secret("sésame")
    assert settings.create_on_push is False
    assert settings.max_blob_bytes == 3 * 2**29
    assert settings.password_queue == 0
    assert settings.limits.drain_timeout == 0.25


def test_a_stronger_source_can_take_an_optional_value_back() -> None:
    assert load(None, {"ENSEADA_MAX_BLOB_BYTES": "5"}, {"max_blob_bytes": "none"}).settings.max_blob_bytes is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("grase = 1", ["grase", "enseada.toml", "did you mean grace?"]),
        ("[limits]\nhead_byte = 1", ["limits.head_byte", "did you mean limits.head_bytes?"]),
        ("[limit]\nhead_bytes = 1", ["limit,", "enseada.toml"]),
        ("[limit]", ["limit,"]),
        ("[grace]", ["grace", "not a time"]),
        ("limits = 3", ["limits"]),
        ("grace = true", ["grace = True", "not a time"]),
        ("grace = inf", ["grace = inf", "not a time"]),
        ("grace = nan", ["grace = nan"]),
        ("grace = -1", ["grace = -1", "less than zero"]),
        ('grace = "5 fortnights"', ["fortnights is no unit"]),
        ("token_lifetime = 59", ["token_lifetime = 59", "60"]),
        ("save_bytes = 0", ["save_bytes = 0"]),
        ("save_bytes = 1.5", ["save_bytes = 1.5", "whole number"]),
        ("password_workers = '2'", ["password_workers = 2", "int"]),
        ("create_on_push = 'yes'", ["create_on_push"]),
        ("anonymous = 'all'", ["anonymous = all", "none, pull, push"]),
        ("listen = []", ["listen", "at least one"]),
        ("listen = [3]", ["listen"]),
        ("listen = 'nowhere'", ["listen = nowhere", "HOST:PORT"]),
        ("listen = 'h:65536'", ["listen", "65535"]),
        ("data = ''", ["data"]),
        ("token_service = 'a b'", ["token_service"]),
        ("argon2_lanes = 64\nargon2_memory = 8192", ["argon2_memory", "8 KiB"]),
        ("[limits]\nhead_bytes = 0", ["limits.head_bytes", "enseada.toml", "more than zero"]),
        ("grace = ", ["enseada.toml", "is not TOML"]),
    ],
)
def test_a_wrong_file_is_told_of(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text), {}, {})
    for part in parts:
        assert part in str(caught.value)


def test_a_file_that_cannot_be_read_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read: No such file"):
        load(tmp_path / "none.toml", {}, {})
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path, {}, {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not TOML"):
        load(tmp_path / "binary", {}, {})


def test_a_wrong_variable_is_told_of() -> None:
    with pytest.raises(ConfigError, match=r"ENSEADA_GRASE, in the environment, .* did you mean ENSEADA_GRACE"):
        load(None, {"ENSEADA_GRASE": "1"}, {})
    with pytest.raises(ConfigError, match=r"ENSEADA_CONFIC, .* did you mean ENSEADA_CONFIG"):
        load(None, {"ENSEADA_CONFIC": "1"}, {})
    with pytest.raises(ConfigError, match="grace = soon, from the variable ENSEADA_GRACE, cannot be used"):
        load(None, {"ENSEADA_GRACE": "soon"}, {})


def test_a_wrong_value_is_told_of_where_a_stronger_source_wins_too() -> None:
    with pytest.raises(ConfigError, match="the variable ENSEADA_GRACE"):
        load(None, {"ENSEADA_GRACE": "soon"}, {"grace": "3"})


def test_a_wrong_flag_is_told_of() -> None:
    with pytest.raises(ConfigError, match=r"from the flag --save-bytes, .*furlongs is no unit"):
        load(None, {}, {"save_bytes": "3furlongs"})
    with pytest.raises(ConfigError, match=r"from the flag --set limits\.head_bytes"):
        load(None, {}, {"limits.head_bytes": "x"})
    with pytest.raises(ConfigError, match=r"limits\.head_byte, in the command line"):
        load(None, {}, {"limits.head_byte": "1"})


@pytest.mark.parametrize("password", ["", "line\nbreak", "x" * 1025, "\udcff"])
def test_a_password_that_cannot_be_used_is_not_shown(password: str) -> None:
    with pytest.raises(ConfigError, match=r"^admin_password, from the variable ENSEADA_ADMIN_PASSWORD") as caught:
        load(None, {"ENSEADA_ADMIN_PASSWORD": password}, {})
    assert not password or password not in str(caught.value)


def test_a_secret_never_shows_itself() -> None:
    loaded = load(None, {"ENSEADA_ADMIN_PASSWORD": "hunter2"}, {})
    assert "hunter2" not in repr(loaded) + str(loaded.settings.admin_password) + f"{loaded}" + loaded.toml()
    assert "(hidden)" in loaded.toml()


def test_what_is_printed_is_read_back(tmp_path: Path) -> None:
    environ = {
        "ENSEADA_LISTEN": "127.0.0.1:0,unix:/tmp/a \x7f\"b\\",
        "ENSEADA_GRACE": "0.5",
        "ENSEADA_UPLOAD_EXPIRY": "36h",
        "ENSEADA_SAVE_BYTES": "1000001",
        "ENSEADA_DATA": "/srv/☃",
        "ENSEADA_LIMITS_MIN_RATE": "1",
    }
    loaded = load(None, environ, {})
    again = load(write(tmp_path, loaded.toml()), {}, {})
    assert again.settings == loaded.settings
    assert "# the variable ENSEADA_GRACE" in loaded.toml()
    assert set(tomllib.loads(loaded.toml())["limits"]) == {s.key[7:] for s in SETTINGS if s.key.startswith("limits.")}


def test_every_setting_is_declared_whole() -> None:
    assert len({setting.variable for setting in SETTINGS}) == len(SETTINGS)
    for setting in SETTINGS:
        assert setting.help.endswith(".")
        assert setting.unit in ("", "bytes", "seconds")
        if not setting.secret and setting.default is not None:
            value = tomllib.loads(f"x = {setting.show(setting.default)}")["x"]
            assert setting.parse(value, text=False) == setting.default
    assert [setting.key for setting in SETTINGS if setting.secret] == ["admin_password"]
    assert all(setting.flag is None for setting in SETTINGS if setting.secret)


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:9623", Address("127.0.0.1", 9623), True),
        ("127.9.9.9:0", Address("127.9.9.9", 0), True),
        ("localhost:1", Address("localhost", 1), True),
        ("[::1]:1", Address("::1", 1), True),
        ("unix:relative/path", Address(path="relative/path"), True),
        ("0.0.0.0:80", Address("0.0.0.0", 80), False),
        ("fd:3", Address(fd=3), False),
        ("[::]:80", Address("::", 80), False),
        ("registry.example:443", Address("registry.example", 443), False),
    ],
)
def test_addresses(text: str, address: Address, loopback: bool) -> None:
    assert parse_address(text) == address
    assert address.loopback is loopback
    assert str(address) == text


@pytest.mark.parametrize("text", ["", "h", ":1", "h:", "h:x", "h:-1", "h:99999", "::1:1", "[h]:1x", "a b:1", "unix:",
                                  "fd:", "fd:2", "fd:-3", "fd:x", "fd:٣", "fd:99999999999",
                                  "http://h:1", "h:١", "[[::1]]:1"])  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|port|unix|fd"):
        parse_address(text)


@given(st.integers(min_value=0, max_value=2**62))
def test_sizes_are_read_back(size: int) -> None:
    assert values.parse_size(tomllib.loads(f"x = {values.format_size(size)}")["x"]) == size


@given(st.floats(min_value=0, max_value=1e12))
def test_times_are_read_back(seconds: float) -> None:
    assert values.parse_duration(tomllib.loads(f"x = {values.format_duration(seconds)}")["x"]) == seconds


@given(st.sampled_from(SETTINGS), st.text(max_size=30))
def test_no_text_breaks_a_setting(setting: config.Setting, text: str) -> None:
    try:
        said = load(None, {setting.variable: text}, {}).sources[setting.key]
    except ConfigError as reason:
        said = str(reason)
        assert said.startswith(setting.key)  # both outcomes are right
    assert f"the variable {setting.variable}" in said
    assert said.isprintable()

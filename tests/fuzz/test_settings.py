"""Configuration: any file and any variables give settings that fit, or one refusal that names the place."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import settings
from broker.errors import ConfigurationError
from broker.settings import Settings
from tests.fuzz.mutations import damaged_text
from tests.fuzz.outcome import SECRET, effort

VALUES: Mapping[str, Any] = {
    "server.host": "127.0.0.1",
    "server.port": 8420,
    "server.public_url": "https://b.example",
    "server.trusted_proxy": "127.0.0.2",
    "storage.data_dir": "data",
    "storage.reserve_mb": 32,
    "storage.commit_timeout_s": 0.9,
    "tokens.lifetime_s": 300,
    "tokens.dpop_window_s": 60,
    "tokens.require_dpop_nonce": True,
    "outgoing.allow": ["127.0.0.1:8080", "[::1]:80"],
    "gateway.max_body_bytes": 65536,
    "secrets.openai.env": "OPENAI_KEY",
    "secrets.openai.origins": ["https://api.openai.com"],
    "log_level": "info",
}
ODD = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        -1,
        1,
        65536,
        2**70,
        0.5,
        "nan",
        "inf",
        "-inf",
        1e300,
        "",
        " ",
        "x",
        "é",
        "\x01",
        "info",
        "127.0.0.1",
        "::1",
        "[::1]",
        "0.0.0.0",
        "https://B.example",
        "http://b.example",
        "https://b.example/",
        "https://u@b.example",
        "https://b.example:443",
        "http://[::1",
        "b.example:²",
        "*:1",
        "h:0",
        ":1",
        "../x",
        "/",
        "~",
        [],
        [1],
        ["x"],
        {},
        {"a": 1},
    ]
)
NAMES = st.sampled_from(
    [*VALUES, "server", "secrets", "secrets.x", "secrets.openai.file", "more", "server.more", "SERVER.PORT"]
)


def _toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(member)}" for name, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if value in ("nan", "inf", "-inf"):
        return str(value)
    return json.dumps("" if value is None else value)


@st.composite
def files(draw: st.DrawFn) -> str:
    """A file that was right, with keys left out, set to something else, added, and its text damaged."""
    kept = {name: VALUES[name] for name in draw(st.lists(st.sampled_from(list(VALUES)), unique=True, max_size=6))}
    changed = {**kept, **draw(st.dictionaries(NAMES, ODD, max_size=2))}
    text = "".join(f"{name} = {_toml(value)}\n" for name, value in changed.items())
    return draw(damaged_text(text, most=1)) if draw(st.integers(0, 3)) == 0 else text


VARIABLES = st.dictionaries(
    NAMES.map(lambda name: "BROKER_" + name.upper().replace(".", "__"))
    | st.sampled_from(["BROKER_", "BROKER___", "BROKER_SERVER__", "BROKER__PORT"]),
    ODD.filter(lambda value: "\x00" not in str(value)).map(lambda value: str(value) if value is not None else ""),
    max_size=2,
)


def _loaded(text: str | None, variables: Mapping[str, str], **overrides: Any) -> Settings | ConfigurationError:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in variables.items():
            patch.setenv(name, value)
        path = Path(folder) / "broker.toml"
        if text is not None:
            path.write_text(text, "utf-8")
        try:
            return settings.load(path if text is not None else None, **overrides)
        except ConfigurationError as refused:
            return refused


def _judge(found: Settings | ConfigurationError, places: list[str]) -> None:
    if isinstance(found, ConfigurationError):
        assert any(place in found.detail for place in places), found.detail
        assert SECRET not in found.detail
        return
    assert 0 < found.server.port < 65536
    assert 0 < found.storage.commit_timeout_s <= 1
    assert 30 <= found.tokens.lifetime_s <= 600
    assert all(0 < port < 65536 and host for host, port in found.outgoing.exceptions())
    assert found.issuer.startswith(("https://", "http://"))
    assert all(secret.origins and (secret.env is None) != (secret.file is None) for secret in found.secrets.values())


@effort(200)
@given(files())
def test_a_file_gives_settings_that_fit_or_a_refusal(text: str) -> None:
    """Whatever stands in the file, what is taken lies within its bounds, and a refusal names the file."""
    _judge(_loaded(text, {}), ["broker.toml"])


@effort(150)
@given(st.none() | files(), VARIABLES)
def test_variables_give_settings_that_fit_or_a_refusal(text: str | None, variables: dict[str, str]) -> None:
    """The same with variables over the file: a refusal names the variable or the file."""
    _judge(_loaded(text, variables), ["broker.toml", *variables, "the configuration"])


@effort(100)
@given(
    st.dictionaries(
        st.sampled_from(["server__host", "server__port", "storage__data_dir", "log_level"]), ODD, max_size=2
    )
)
def test_options_give_settings_that_fit_or_a_refusal(options: dict[str, Any]) -> None:
    """The same with options of the command line."""
    _judge(_loaded(None, {}, **options), ["--", "the configuration"])

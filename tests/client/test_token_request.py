"""The token request and its answer as pure functions."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.client import (
    BrokerUnreachable,
    TokenRefused,
    build_token_request,
    client_credentials_form,
    exchange_form,
    read_token_answer,
)
from broker.errors import UseDpopNonce
from broker.formats import dpop

GOOD = {"access_token": "a.b.c", "token_type": "DPoP", "expires_in": 300, "scope": "calls"}
NOW = 1_800_000_000.0


def _read(status: int, answer: object, **headers: str) -> Any:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return read_token_answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def test_a_request_is_ready_to_send() -> None:
    """URL, headers and form go together: the proof fits the URL and method and carries the nonce."""
    form = exchange_form("evidence", resource="https://b.example/openai/v1", scope="calls")
    request = build_token_request("https://b.example/", form, Ed25519PrivateKey.generate(), now=NOW, jti="j", nonce="n")
    assert request.url == "https://b.example/token"
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert {name: [value] for name, value in form.items()} == parse_qs(request.body.decode())
    proof = dpop.verify(request.headers["DPoP"], method="POST", url=request.url, now=NOW, access_token=None)
    assert (proof.jti, proof.nonce) == ("j", "n")


def test_scope_is_left_out_unless_named() -> None:
    """No scope asks for everything that policy gives."""
    assert "scope" not in exchange_form("evidence", resource="r")
    assert "scope" not in client_credentials_form("id", "assertion", resource="r")
    assert client_credentials_form("id", "assertion", resource="r", scope="s")["scope"] == "s"


def test_a_good_answer_is_a_token() -> None:
    """Type compares without case (RFC 6749 §5.1), and a missing lifetime is taken as a minute."""
    answer = _read(200, GOOD)
    assert (answer.access_token, answer.expires_in_s, answer.scope) == ("a.b.c", 300, "calls")
    assert _read(200, {"access_token": "a", "token_type": "dpop"}).expires_in_s == 60


@pytest.mark.parametrize(
    "change",
    [
        {"token_type": "Bearer"},
        {"token_type": None},
        {"access_token": ""},
        {"access_token": None},
        {"access_token": "a b"},
        {"access_token": "a\r\nX: y"},
        {"access_token": "\u00e4"},
        {"expires_in": 0},
        {"expires_in": -1},
        {"expires_in": True},
        {"expires_in": "300"},
        {"expires_in": 1.5},
    ],
)
def test_an_answer_that_is_no_bound_token_is_discarded(change: dict[str, object]) -> None:
    """A bearer token, a token that no header can hold, and one without a life are not used (RFC 9449 §5)."""
    with pytest.raises(BrokerUnreachable):
        _read(200, {**GOOD, **change})


def test_a_refusal_says_what_was_said_and_what_to_do() -> None:
    """The OAuth error and its description are there as values and in the text, with advice."""
    with pytest.raises(TokenRefused) as caught:
        _read(400, {"error": "invalid_target", "error_description": "not in any policy"})
    refused = caught.value
    assert (refused.error, refused.description, refused.status) == ("invalid_target", "not in any policy", 400)
    assert "invalid_target (not in any policy). Ask an admin" in refused.detail
    with pytest.raises(TokenRefused, match=r"custom_error\. Ask an admin"):
        _read(401, {"error": "custom_error", "error_description": 7})


def test_a_wanted_nonce_is_given_with_the_error() -> None:
    """use_dpop_nonce names the nonce to repeat with; without one it is an ordinary refusal."""
    with pytest.raises(UseDpopNonce) as caught:
        _read(400, {"error": "use_dpop_nonce"}, dpop_nonce="n1")
    assert caught.value.nonce == "n1"
    with pytest.raises(TokenRefused):
        _read(400, {"error": "use_dpop_nonce"})


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (503, {"error": "temporarily_unavailable"}),
        (500, b""),
        (429, {"error": "slow_down"}),
        (307, b""),
        (404, b"<html>"),
        (400, b"not json"),
        (400, {"error": 7}),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"access_token":"a","access_token":"b","token_type":"DPoP"}'),
        (201, GOOD),
    ],
)
def test_anything_else_is_no_answer(status: int, answer: object) -> None:
    """Trouble at the broker, or something that is no broker at all, is told apart from a refusal."""
    with pytest.raises(BrokerUnreachable):
        _read(status, answer)


def test_neither_requests_nor_answers_show_their_secrets() -> None:
    """What is printed or logged holds neither evidence nor token."""
    request = build_token_request(
        "https://b.example", exchange_form("planted", resource="r"), Ed25519PrivateKey.generate(), now=NOW, jti="j"
    )
    answer = _read(200, {**GOOD, "access_token": "planted"})
    assert "planted" not in f"{request!r} {request} {answer!r} {answer}"

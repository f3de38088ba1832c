"""One table from the error tree to HTTP: nothing unmapped tells anything, each shape is what its clients know."""

from __future__ import annotations

import logging
from collections.abc import Callable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import errors
from broker.errors import BrokerError, InvalidDpopProof, InvalidToken, Unavailable, UseDpopNonce
from broker.gateway.anthropic_wire import ANTHROPIC
from broker.gateway.openai_wire import OPENAI
from broker.identity.enrolment import NotEnrolled
from broker.web import errors as shown
from broker.web.errors import TABLE, Shown

API = "https://broker.example/api/v1"
Render = Callable[[BaseException], Shown]


def _problem(error: BaseException) -> Shown:
    return shown.problem(error, "r-1", API)


def _oauth(error: BaseException) -> Shown:
    return shown.oauth(error, "r-1")


def _openai(error: BaseException) -> Shown:
    return shown.provider_format(error, "r-1", "https://broker.example/openai/v1", OPENAI)


def _anthropic(error: BaseException) -> Shown:
    return shown.provider_format(error, "r-1", "https://broker.example/anthropic/v1", ANTHROPIC)


RENDERINGS: list[Render] = [_problem, _oauth, _openai, _anthropic]


def _made(cls: type[BrokerError], detail: str = "Do this instead.") -> BrokerError:
    return UseDpopNonce("n-1") if cls is UseDpopNonce else cls(detail)


@pytest.mark.parametrize("render", RENDERINGS)
@pytest.mark.parametrize("cls", TABLE, ids=lambda cls: str(cls.__name__))
def test_every_class_is_shown(cls: type[BrokerError], render: Render) -> None:
    """Each class has its status, a code of printable characters, the request's id, and is never cached."""
    answer = render(_made(cls))
    headers = dict(answer.headers)
    assert 400 <= answer.status <= 503
    assert headers[b"x-request-id"] == b"r-1"
    assert headers[b"cache-control"] == b"no-store"
    document = orjson.loads(answer.body)
    if render is _problem:
        assert headers[b"content-type"] == b"application/problem+json"
        assert document["type"] == f"urn:broker:problem:{TABLE[cls].code}"
        assert (document["status"], document["request_id"]) == (answer.status, "r-1")
        assert document["title"] == TABLE[cls].title
    elif render is _oauth:
        assert set(document) == {"error", "error_description"}
        assert document["error"] == TABLE[cls].code
    elif render is _anthropic:
        assert (set(document), document["type"]) == ({"type", "error", "request_id"}, "error")
        assert document["request_id"] == "r-1"
        assert document["error"]["type"].endswith(("_error", "too_large"))
    else:
        assert set(document["error"]) == {"message", "type", "param", "code"}
        assert document["error"]["code"] == TABLE[cls].code
    assert (b"Do this instead." in answer.body) == (TABLE[cls].status != 500 and cls is not UseDpopNonce)


@pytest.mark.parametrize("render", RENDERINGS)
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("the secret is hunter2"),
        KeyError("hunter2"),
        BrokerError("hunter2"),
        errors.ConfigurationError("hunter2"),
        errors.ProofInvalid("hunter2"),
    ],
)
def test_what_is_not_known_tells_nothing(
    error: BaseException, render: Render, caplog: pytest.LogCaptureFixture
) -> None:
    """An error that the table does not map is 500 without a word of its own outside, and all of it in the log."""
    with caplog.at_level(logging.ERROR):
        answer = render(error)
    assert answer.status == 500
    assert b"hunter2" not in answer.body + repr(answer.headers).encode()
    assert "r-1" in caplog.text
    assert "hunter2" in caplog.text


def test_a_class_without_a_row_has_its_parents() -> None:
    """The nearest ancestor's row counts."""
    assert shown.row(NotEnrolled("x")) is TABLE[errors.InvalidRequest]
    assert shown.row(BrokerError("x")).status == 500


@given(st.text(max_size=2000))
def test_descriptions_are_printable(text: str) -> None:
    """Whatever an error says, its description holds what RFC 6749 §5.2 allows, and its challenge is one header."""
    description = orjson.loads(_oauth(errors.InvalidRequest(text)).body)["error_description"]
    assert all(" " <= c <= "~" and c not in '"\\' for c in description)
    assert len(description) <= 1000
    for render in (_problem, _openai, _anthropic):
        challenge = dict(render(InvalidToken(text)).headers)[b"www-authenticate"]
        assert all(0x20 <= byte <= 0x7E for byte in challenge)
        assert challenge.count(b'"') % 2 == 0


def test_a_challenge_says_what_to_do() -> None:
    """A token that is not accepted is challenged with an error; a missing one without (RFC 6750 §3.1)."""
    none = dict(_problem(InvalidToken("Send one.", reason="no_token")).headers)[b"www-authenticate"]
    assert none == (
        b'DPoP resource_metadata="https://broker.example/.well-known/oauth-protected-resource/api/v1", '
        b'algs="ES256 EdDSA"'
    )
    wrong = dict(_problem(InvalidToken("It has ended.")).headers)[b"www-authenticate"]
    assert wrong.startswith(b'DPoP error="invalid_token", error_description="It has ended.", ')


def test_a_proof_is_401_at_a_resource_and_400_at_the_token_endpoint() -> None:
    """RFC 9449 §7.1 and §5 differ, and so do we."""
    assert (_problem(InvalidDpopProof("x")).status, _oauth(InvalidDpopProof("x")).status) == (401, 400)
    assert (_problem(UseDpopNonce("n")).status, _oauth(UseDpopNonce("n")).status) == (401, 400)


@pytest.mark.parametrize("render", RENDERINGS)
def test_a_nonce_and_a_wait_are_headers(render: Render) -> None:
    """The nonce to use and the time to wait are where clients look for them."""
    assert dict(render(UseDpopNonce("n-1")).headers)[b"dpop-nonce"] == b"n-1"
    assert dict(render(Unavailable("later")).headers)[b"retry-after"] == b"1"
    assert render(Unavailable("later")).status == 503


def test_a_client_that_is_not_authenticated_is_told_how() -> None:
    """401 at the token endpoint names the way in (RFC 6749 §5.2)."""
    answer = _oauth(errors.InvalidClient("x"))
    assert (answer.status, dict(answer.headers)[b"www-authenticate"]) == (401, b"private_key_jwt")

"""The session's steps, driven by hand: what two requests that come at the same moment ask for."""

from __future__ import annotations

import json
from collections.abc import Generator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.client.origin import Origin
from broker.client.session import Session
from broker.client.steps import Acquire, Answer, Ask, Held, Reply, Send, Step, WantEvidence
from broker.client.token_request import JWT_TYPE
from broker.entropy import system_entropy
from tests.fakes import FakeClock

URL = "https://broker.example/openai/v1/models"
HELD = Held(lambda: None)


def _token(number: int) -> Answer:
    answer = {"access_token": f"token-{number}", "token_type": "DPoP", "expires_in": 300}
    return Answer(200, {}, json.dumps(answer).encode())


def _begun(session: Session) -> tuple[Generator[Step, Reply, None], Step]:
    flow = session.flow("GET", URL, Origin.of("https", "broker.example", None), replayable=True)
    return flow, next(flow)


def _renewed(flow: Generator[Step, Reply, None], number: int) -> Step:
    """Lets a flow that waits for the lock ask for a token."""
    assert isinstance(flow.send(HELD), WantEvidence)
    assert isinstance(flow.send("evidence"), Ask)
    return flow.send(_token(number))


def _sends(step: Step, token: str) -> bool:
    return isinstance(step, Send) and step.headers["Authorization"] == f"DPoP {token}"


@pytest.fixture
def session() -> Session:
    """A session whose token is due for renewal and good for a while."""
    clock = FakeClock()
    made = Session(
        "https://broker.example",
        registered=None,
        resource=None,
        scope=None,
        subject_token_type=JWT_TYPE,
        proof_key=Ed25519PrivateKey.generate(),
        clock=clock,
        entropy=system_entropy,
        allow_plain_http=False,
    )
    flow, step = _begun(made)
    assert step == Acquire(wait=True)
    assert _sends(_renewed(flow, 1), "token-1")
    flow.close()
    clock.advance(200)
    return made


def test_who_finds_an_early_renewal_under_way_does_not_wait(session: Session) -> None:
    """Of two requests that find the token due at once, the second goes out with the old token immediately."""
    first, step = _begun(session)
    second, other = _begun(session)
    assert step == other == Acquire(wait=False)
    assert _sends(second.send(None), "token-1")
    assert _sends(_renewed(first, 2), "token-2")


def test_who_gets_the_lock_after_a_renewal_does_not_renew_again(session: Session) -> None:
    """The second of two, if it has the lock after the first is done, uses what the first got."""
    first, _ = _begun(session)
    second, _ = _begun(session)
    assert _sends(_renewed(first, 2), "token-2")
    assert _sends(second.send(HELD), "token-2")


def test_a_lock_is_given_back_however_a_request_ends(session: Session) -> None:
    """A flow that is closed while it asks for a token leaves the lock free for the next."""
    released: list[bool] = []
    flow, _ = _begun(session)
    flow.send(Held(lambda: released.append(True)))
    assert isinstance(flow.send("evidence"), Ask)
    flow.close()
    assert released == [True]

"""The SDK's session: whatever the broker answers and in whatever order requests come, its rules about renewals hold."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from broker.client.errors import ClientError
from broker.client.origin import Origin
from broker.client.session import Session
from broker.client.steps import Acquire, Answer, Ask, Held, Reply, Send, Step, WantEvidence
from broker.client.token_request import read_token_answer
from broker.entropy import system_entropy
from tests.fakes import FakeClock
from tests.formats.forge import p256
from tests.fuzz.databases import steps
from tests.fuzz.mutations import altered, spelled
from tests.fuzz.outcome import effort, taken
from tests.fuzz.tokens import read

URL = "https://b.example"
HERE = Origin("https", "b.example", 443)
GRANTED: dict[str, Any] = {"access_token": "t", "token_type": "DPoP", "expires_in": 300, "scope": "a"}
REFUSED: dict[str, Any] = {"error": "access_denied", "error_description": "no"}


@effort(200)
@given(
    st.sampled_from([GRANTED, REFUSED])
    .flatmap(lambda body: altered(body, odd=st.sampled_from(["bearer", "DPOP", 10**300])))
    .flatmap(spelled),
    st.sampled_from([200, 200, 400, 401, 429, 500, 302]),
    st.dictionaries(st.just("dpop-nonce"), st.text(max_size=5)),
)
def test_an_answer_is_a_bound_token_or_an_error(body: bytes, status: int, headers: dict[str, str]) -> None:
    """Whatever the token endpoint says: a token bound to the key with a life, or an error of the SDK's own."""
    found = taken(lambda: read_token_answer(status, headers, body), quotes=True)
    if found is not None:
        assert status == 200
        assert found.access_token
        assert found.expires_in_s > 0
        assert found.access_token not in repr(found)
        assert json.loads(body)["token_type"].lower() == "dpop"
        assert float(found.expires_in_s) > 0


class Renewals(RuleBasedStateMachine):
    """Requests that run side by side: each step of each is answered when the machine likes."""

    flows = Bundle("flows")

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.session = Session(
            URL, registered=None, resource=None, scope=None, subject_token_type="urn:x", proof_key=p256(),
            clock=self.clock, entropy=system_entropy, allow_plain_http=False,
        )  # fmt: skip
        self.running: dict[int, tuple[Generator[Step, Reply, None], Step]] = {}
        self.holder: int | None = None
        self.asking: set[int] = set()
        self.issued: dict[str, float] = {}
        self.jtis: set[str] = set()
        self.count = 0

    @rule(target=flows)
    def begin(self) -> int:
        """Another request of the caller."""
        self.count += 1
        flow = self.session.flow("POST", f"{URL}/openai/v1/x", HERE, replayable=True)
        self._went_on(self.count, flow, None)
        return self.count

    def _went_on(self, number: int, flow: Generator[Step, Reply, None], reply: Reply) -> None:
        self.asking.discard(number)
        try:
            step = flow.send(reply)
        except (StopIteration, ClientError):
            self.running.pop(number, None)
            assert self.holder != number
            return
        self.running[number] = (flow, step)
        if isinstance(step, Ask):
            assert self.holder == number
            self.asking.add(number)
            self._fresh(step.request.headers["DPoP"])
        elif isinstance(step, Send):
            token = step.headers["Authorization"].removeprefix("DPoP ")
            assert self.clock.monotonic() <= self.issued[token]
            self._fresh(step.headers["DPoP"])

    def _fresh(self, proof: str) -> None:
        jti = read(proof)[1]["jti"]
        assert jti not in self.jtis
        self.jtis.add(jti)

    def _release(self) -> None:
        assert self.holder is not None
        self.holder = None

    @rule(
        number=flows,
        what=st.sampled_from(["granted", "granted", "refused", "nonce", "down", "nonsense", "gone"]),
        life=st.sampled_from([1, 60, 300]),
    )
    def answer(self, number: int, what: str, life: int) -> None:
        """The step of one request that waits is answered, or its connection breaks."""
        if number not in self.running:
            return
        flow, step = self.running[number]
        if what == "gone":
            self.asking.discard(number)
            flow.close()
            del self.running[number]
            assert self.holder != number
            return
        match step:
            case Acquire(wait=wait):
                if self.holder is None:
                    self.holder = number
                    self._went_on(number, flow, Held(self._release))
                elif not wait:
                    self._went_on(number, flow, None)
            case WantEvidence():
                self._went_on(number, flow, "evidence")
            case Ask():
                self._went_on(number, flow, self._token_answer(what, life))
            case Send():
                error = {"refused": "invalid_token", "nonce": "use_dpop_nonce"}.get(what)
                headers = {"www-authenticate": f'DPoP error="{error}"', "dpop-nonce": "n"} if error else {}
                self._went_on(number, flow, Answer(401 if error else 200, headers, b""))

    def _token_answer(self, what: str, life: int) -> Answer:
        if what == "granted":
            token = f"t{len(self.issued)}"
            self.issued[token] = self.clock.monotonic() + life
            body = {**GRANTED, "access_token": token, "expires_in": life}
            return Answer(200, {}, json.dumps(body).encode())
        if what == "nonce":
            return Answer(400, {"dpop-nonce": "n"}, b'{"error":"use_dpop_nonce"}')
        if what == "refused":
            return Answer(400, {}, json.dumps(REFUSED).encode())
        return Answer(503 if what == "down" else 200, {}, b"<html>")

    @rule(seconds=st.sampled_from([0.0, 1.0, 39.0, 100.0, 200.0, 300.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; requests that are sent already keep what they carry."""
        self.clock.advance(seconds)

    @invariant()
    def one_at_a_time(self) -> None:
        """At most one request asks the token endpoint, and it is the one that holds the lock."""
        assert len(self.asking) <= 1
        assert not self.asking or self.asking == {self.holder}

    @invariant()
    def a_lock_is_held_by_a_request_that_runs(self) -> None:
        """No request that ended, in whatever way, keeps the others from renewing."""
        assert self.holder is None or self.holder in self.running


TestRenewals = Renewals.TestCase
TestRenewals.settings = steps(60, 40)

"""Which stage a sample is put down to."""

from __future__ import annotations

import importlib

import pytest

from tests.bench.sampled import COLLECTOR, EVENT_LOOP
from tests.bench.stages import HTTP, REST, SIGNATURES, STAGES, by_function, by_stage, stage_of

_ROUTE = "uvicorn.protocols.http.httptools_impl:RequestResponseCycle.run_asgi;broker.web.oauth:token_endpoint;"


@pytest.mark.parametrize(
    ("stack", "stage"),
    [
        (_ROUTE + "broker.tokens.exchange:TokenIssuer.exchange;broker.tokens.request:parse;urllib.parse:x", "the form"),
        (_ROUTE + "broker.tokens.exchange:TokenIssuer.exchange", "the exchange's own steps"),
        (_ROUTE + "broker.identity.enrolment:enrol;broker.policy.engine:PolicySet.decide", "which agent (Cedar)"),
        (_ROUTE + "broker.formats.dpop:verify;broker.formats.jws:verify", SIGNATURES),
        (_ROUTE + "broker.formats.dpop:verify;broker.formats.jws:unverified", "proof"),
        ("uvicorn.protocols.http.httptools_impl:HttpToolsProtocol.data_received", HTTP),
        (
            "broker.web.gateway:_relay;broker.outbound.answers:Chunks.__anext__;aiohttp.streams:read",
            STAGES["broker.outbound"],
        ),
        (
            "broker.db.writer:GroupWriter._run;broker.audit.log:AuditLog._apply;broker.db.claims:take;sqlalchemy.x:y",
            "writer: claims",
        ),
        (EVENT_LOOP, EVENT_LOOP),
        (COLLECTOR, COLLECTOR),
        ("thread", REST),
    ],
)
def test_a_stack_belongs_to_the_outermost_stage_that_was_entered(stack: str, stage: str) -> None:
    """What the journeys' conductors call counts for itself; signatures and the writer's thread stand apart."""
    assert stage_of(stack) == stage


def test_the_stages_add_up() -> None:
    """Nothing of the measured time is lost, by stage or by function."""
    stacks = {_ROUTE + "broker.formats.dpop:verify": 1.0, "somewhere:else": 2.0, EVENT_LOOP: 4.0}
    assert sum(by_stage(stacks).values()) == sum(by_function(stacks).values()) == 7.0
    assert by_stage(stacks) == {EVENT_LOOP: 4.0, REST: 2.0, "proof": 1.0}


@pytest.mark.parametrize("module", sorted(STAGES))
def test_every_module_that_has_a_stage_exists(module: str) -> None:
    """A part that moved is noticed here, and not by a rest that grows."""
    assert importlib.import_module(module).__name__ == module

"""What stacks of the broker's code belong to, in the words of its journeys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from tests.bench.sampled import COLLECTOR, EVENT_LOOP, SEPARATOR

SIGNATURES = "signatures (ES256, part of the floor)"
HTTP = "HTTP server (uvicorn, part of the floor)"
REST = "rest"

STAGES: Mapping[str, str] = {
    "broker.tokens.request": "the form",
    "broker.formats.dpop": "proof",
    "broker.tokens.client_auth": "evidence",
    "broker.identity.enrolment": "which agent (Cedar)",
    "broker.tokens.bearer": "token and proof",
    "broker.policy": "decision (Cedar)",
    "broker.tokens.replay": "replay memory",
    "broker.identity.instances": "instance",
    "broker.tokens.issue": "token",
    "broker.tokens.trail": "record: what it says",
    "broker.audit.events": "record: what it says",
    "broker.audit.log": "record: groups, commitments, waiting",
    "broker.audit.tree": "tree (in the background)",
    "broker.db": "waiting for the commit",
    "broker.gateway.wire": "body and usage",
    "broker.gateway.openai_wire": "body and usage",
    "broker.gateway.anthropic_wire": "body and usage",
    "broker.gateway.bodies": "body and usage",
    "broker.gateway.upstream": "hop: headers",
    "broker.outbound": "hop (aiohttp, part of the floor)",
    "aiohttp": "hop (aiohttp, part of the floor)",
    "broker.gateway": "the call's own steps",
    "broker.tokens": "the exchange's own steps",
    "broker.web": "route",
    "broker.assembly": "route",
    "uvicorn": HTTP,
    "asyncio": "asyncio",
    "contextlib": "asyncio",
}
"""The stage of a module or package; the longest name that fits counts."""

_CONDUCTORS = frozenset(
    {"the call's own steps", "the exchange's own steps", "route", HTTP, "asyncio", "hop (aiohttp, part of the floor)"}
)
"""Stages that call the others: a frame of theirs counts only when no other stage has been entered from it."""

_SIGNING = ("broker.formats.jws:verify", "broker.formats.jws:sign", "jwt.algorithms:")
_WRITER = "broker.db.writer:GroupWriter._run"


def stage_of(stack: str) -> str:
    """The stage that a stack is in.

    On the writer's thread: its part of the writing. On the loop: the outermost stage that was entered, except that what
    happens in a signature is a signature's, whoever asked for it.
    """
    if stack in (EVENT_LOOP, COLLECTOR):
        return stack
    frames = stack.split(SEPARATOR)
    if _WRITER in frames:
        return f"writer: {_writer_part(frames)}"
    if frames[-1].startswith(_SIGNING):
        return SIGNATURES
    found = [stage for frame in frames if (stage := _stage_of_frame(frame)) is not None]
    entered = [stage for stage in found if stage not in _CONDUCTORS]
    return entered[0] if entered else found[-1] if found else REST


def by_stage(stacks: Mapping[str, float]) -> dict[str, float]:
    """The seconds of each stage, most first."""
    spent: defaultdict[str, float] = defaultdict(float)
    for stack, seconds in stacks.items():
        spent[stage_of(stack)] += seconds
    return dict(sorted(spent.items(), key=lambda item: -item[1]))


def by_function(stacks: Mapping[str, float]) -> dict[str, float]:
    """The seconds that each innermost function took itself, with the C code that it called; most first."""
    spent: defaultdict[str, float] = defaultdict(float)
    for stack, seconds in stacks.items():
        spent[stack.rpartition(SEPARATOR)[2]] += seconds
    return dict(sorted(spent.items(), key=lambda item: -item[1]))


def _stage_of_frame(frame: str) -> str | None:
    module = frame.partition(":")[0]
    while module:
        if module in STAGES:
            return STAGES[module]
        module = module.rpartition(".")[0]
    return None


def _writer_part(frames: list[str]) -> str:
    """What the writer's thread is at: the innermost of the broker's own frames."""
    own = next(frame for frame in reversed(frames) if frame.startswith("broker."))
    module, _, function = own.partition(":")
    parts = {
        "broker.db.claims": "claims",
        "broker.audit.log": "rows of records",
        "broker.formats": "rows of records",
        "broker.db.engine": "transaction and statements",
        "broker.identity": "instances",
    }
    return next((part for name, part in parts.items() if module.startswith(name)), f"queue ({function.split('.')[-1]})")

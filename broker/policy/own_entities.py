"""What the broker itself hands to policies: one sample of each thing and each question, to try a vocabulary on.

A vocabulary may be changed like any policy. One that asks of a model an attribute which the broker does not know, or
that drops an action which the broker asks, would validate and then refuse everything; so it is refused first. That the
samples are what the broker really hands over is proved by tests/policy/test_own_entities.py.
"""

from __future__ import annotations

import re

from broker.errors import Malformed, PolicyInvalid
from broker.policy.engine import PolicySet
from broker.policy.request import Entity, EntityRef, Request
from broker.policy.source import SCHEMA_NAME, refusal

_AGENT = Entity(
    ("Agent", "sample"),
    {
        "owner": "sample",
        "purpose": "sample",
        "kind": "agent",
        "status": "active",
        "ceiling": ["sample/*"],
        "enrolled_by": "",
    },
)
_OPERATOR = Entity(("Operator", "sample"), {"status": "active"}, (("Role", "admin"), ("Role", "auditor")))
_ATTESTER = Entity(("Attester", "sample"), {"kind": "oidc"})
_OIDC = Entity(("OidcEvidence", "sample"), {"issuer": "sample", "subject": "sample"}, tags={"sub": "sample"})
_KEY = Entity(("KeyEvidence", "sample"), {"agent": "sample", "thumbprint": "sample"})
_LISTS = Entity(("ListClaims", "sample"), tags={"groups": ["sample"]})
_AUDIENCE = Entity(("Audience", "sample"), {"kind": "api"})
_ENDPOINT = Entity(("Endpoint", "sample"), {"wire": "openai"})
_MODEL = Entity(("Model", "sample/sample"), {"name": "sample/sample", "family": "sample/*"}, (_ENDPOINT.uid,))
_BROKER = Entity(("Broker", "this"))

SAMPLES = (_AGENT, _OPERATOR, _ATTESTER, _OIDC, _KEY, _LISTS, _AUDIENCE, _ENDPOINT, _MODEL, _BROKER)

_ENROLMENT = {"lists": EntityRef(_LISTS.uid)}
_EXCHANGE = {"confirmation": "dpop", "attester": "sample", "grant": "sample", "lifetime_s": 300}
_CALL = {"operation": "chat.completions", "stream": False, "confirmation": "dpop"}

QUESTIONS = (
    Request(_OIDC.uid, "enrol", _ATTESTER.uid, _ENROLMENT),
    Request(_KEY.uid, "enrol", _ATTESTER.uid, _ENROLMENT),
    Request(_AGENT.uid, "exchange", _AUDIENCE.uid, _EXCHANGE),
    Request(_OPERATOR.uid, "exchange", _AUDIENCE.uid, _EXCHANGE),
    Request(_AGENT.uid, "call", _MODEL.uid, _CALL),
    *(Request(_OPERATOR.uid, action, _BROKER.uid) for action in ("read", "readTrail", "propose", "approve", "contain")),
)

LATER = (
    Request(_OPERATOR.uid, "erase", _BROKER.uid),
    Request(_OPERATOR.uid, "readGroup", _BROKER.uid, {"group": "who"}),
)
"""Asked under vocabularies that have the action; those of earlier versions have not."""


def check(policies: PolicySet) -> None:
    """Refuses a set whose vocabulary does not fit what the broker hands over and asks.

    Raises:
        PolicyInvalid: names the type and what the broker knows of it, or the question that cannot be asked.
    """
    for sample in SAMPLES:
        try:
            policies.prepare([sample])
        except Malformed as error:
            raise refusal(SCHEMA_NAME, _misfit(sample, policies.vocabulary)) from error
    entities = policies.prepare(SAMPLES)
    for asked in (*QUESTIONS, *(later for later in LATER if later.action in policies.actions)):
        problem = policies.evaluate(asked, entities).problem
        if problem:
            raise _unanswered(asked, problem)


def _misfit(sample: Entity, vocabulary: str) -> str:
    type = sample.uid[0]
    told = f"the broker describes {type} "
    declared = re.search(
        rf"^entity {type}\b[^\n{{;]*(;|\{{\n(?P<members>.*?)^\}})", vocabulary, re.MULTILINE | re.DOTALL
    )
    if declared is None:
        return told + "and the vocabulary does not. Declare the type."
    members = dict(re.findall(r'^  "?([^":?\n]+)"?(\??):', declared["members"] or "", re.MULTILINE))
    missing = sorted(name for name, optional in members.items() if not optional and name not in sample.attrs)
    if missing:
        name = missing[0]
        return told + f"without the attribute {name}. Leave it out, or make it optional: `{name}?`."
    surplus = sorted(sample.attrs.keys() - members.keys())
    if surplus:
        return told + f"with the attribute {surplus[0]}, which the vocabulary leaves out. Declare it."
    known = ", ".join(sample.attrs) or "no attribute"
    return (
        told + f"with {known}: a value, a tag or a parent has another type here. Take its lines from the shipped file."
    )


def _unanswered(asked: Request, problem: str) -> PolicyInvalid:
    context = ", ".join(asked.context) or "nothing"
    return refusal(
        SCHEMA_NAME,
        f"the broker asks for {asked.action} of a principal {asked.principal[0]} on a resource {asked.resource[0]} "
        f"with {context} in its context, and this vocabulary does not let it: {problem}",
    )

"""A vocabulary that does not fit the broker itself is refused; the samples are what the broker really hands over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from broker.client import BrokerAuth
from broker.errors import PolicyInvalid
from broker.formats import jwk
from broker.policy import active, own_entities
from broker.policy.engine import Entity, EntityRef, Evaluation, PolicySet, PreparedEntities, Request
from broker.policy.shipped import PolicyFiles
from tests.build import MODEL, es256, running
from tests.policy.world import shipped_files

ANYTHING = {"some.cedar": '@id("x") forbid (principal, action, resource);'}


def checked(*changes: tuple[str, str]) -> active.Checked:
    """A set with the shipped vocabulary, changed."""
    schema = shipped_files().schema
    for old, new in changes:
        assert old in schema
        schema = schema.replace(old, new)
    return active.check(PolicyFiles(schema, ANYTHING, {}))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("  family: String,", "  family: String, region: String,"), "describes Model without the attribute region"),
        (("  family: String,", ""), "describes Model with the attribute family"),
        (("  owner: String,", "  owner: Long,"), "describes Agent with owner, .* another type"),
        (("  wire: String,", "  wire: String, price: Long,"), "describes Endpoint without the attribute price"),
        (("entity Broker;", "entity Broker { name: String };"), "describes Broker without the attribute name"),
        (
            ("entity Broker;", 'entity Broker { "my name": Set<String> };'),
            "describes Broker without the attribute my name",
        ),
        (("entity Operator in [Role]", "entity Operator"), "describes Operator"),
        (("} tags String;", "};"), "describes OidcEvidence"),
        (("tags Set<String>", "tags String"), "describes ListClaims"),
        (("    stream: Bool,", ""), "asks for call of a principal Agent on a resource Model"),
        (("    stream: Bool,", "stream: Bool, price: Long,"), "asks for call"),
        (("  readTrail,", "  readLog,"), "asks for readTrail of a principal Operator"),
        (("    group: String,", "    name: String,"), "asks for readGroup of a principal Operator"),
        (("principal: [OidcEvidence, KeyEvidence]", "principal: [OidcEvidence]"), "asks for enrol of a principal Key"),
        (("principal: [Agent, Operator]", "principal: [Agent]"), "asks for exchange of a principal Operator"),
    ],
)
def test_a_vocabulary_that_does_not_fit_the_broker_is_refused(change: tuple[str, str], complaint: str) -> None:
    """It would validate, and then every request would fail."""
    with pytest.raises(PolicyInvalid, match=rf"(?s)schema\.cedarschema: the broker {complaint}"):
        checked(change)


def test_a_vocabulary_may_know_more_than_the_broker() -> None:
    """Optional attributes, other types and other actions are nobody's harm."""
    checked(
        ("  family: String,", "  family: String, region?: String,"),
        ("entity Broker;", "entity Broker; entity Team; action play appliesTo { principal: Team, resource: Broker };"),
    )


def test_a_vocabulary_of_an_earlier_version_stays_usable() -> None:
    """One that has not yet the actions which came later."""
    checked(
        (", // suspend, revoke, throttle\n  erase", ""),
        ("action readGroup in [operate]", "action readPart in [operate]"),
    )


def _kind(value: object) -> object:
    if isinstance(value, EntityRef):
        return value.uid[0]
    if isinstance(value, list | tuple):
        return [str]
    return type(value)


def _shape(values: Mapping[str, object]) -> dict[str, object]:
    return {name: _kind(value) for name, value in values.items()}


def _described(entity: Entity) -> tuple[object, ...]:
    tags = {str(_kind(value)) for value in (entity.tags or {}).values()}
    parents = {parent[0] for parent in entity.parents}
    return entity.uid[0], _shape(entity.attrs), parents, tags


async def test_the_samples_are_what_the_broker_hands_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked while a platform's agent, an agent with a key and an operator do their work: the same shapes."""
    seen: list[tuple[Request, PreparedEntities]] = []
    evaluate = PolicySet.evaluate

    def spied(policies: PolicySet, request: Request, entities: PreparedEntities) -> Evaluation:
        seen.append((request, entities))
        return evaluate(policies, request, entities)

    key = es256()
    keys = {"keys": [jwk.to_members(key.public_key())]}
    async with running(tmp_path) as run:
        keyed = {"owner": "o", "purpose": "p", "ceiling": [f"stand-in/{MODEL}"], **keys}
        await run.apply(run.world(agents={"keyed": keyed}))
        monkeypatch.setattr(PolicySet, "evaluate", spied)
        admin = await run.operator()
        for path in ("policies", "audit/records"):
            await admin.get(f"/api/v1/{path}")
        for path in ("changes?dry_run=true", "changes/none/approve", "contain"):
            await admin.post(f"/api/v1/{path}", json={})
        with_evidence = await run.client(BrokerAuth(run.url, lambda: run.evidence(groups=["a"]), clock=run.clock))
        with_key = await run.client(BrokerAuth(run.url, client_id="keyed", key=key, clock=run.clock))
        for agent in (with_evidence, with_key):
            body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
            answer = await agent.post("/openai/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
    samples = {entity.uid[0]: _described(entity) for entity in own_entities.SAMPLES}
    for _, entities in seen:
        for entity in entities.entities.values():
            told, sample = _described(entity), samples[entity.uid[0]]
            assert told[:3] == sample[:3]
            assert not told[3] or told[3] == sample[3]
    (later,) = (asked for asked in own_entities.LATER if asked.action == "readGroup")
    questions = {
        (q.principal[0], q.action, q.resource[0], str(_shape(q.context))) for q in (*own_entities.QUESTIONS, later)
    }
    asked = {(q.principal[0], q.action, q.resource[0], str(_shape(q.context))) for q, _ in seen}
    assert asked == questions
    handed_over = {uid[0] for _, entities in seen for uid in entities.entities}
    assert handed_over == set(samples)

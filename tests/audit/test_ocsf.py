"""Every kind of record as an event of OCSF, valid under the published schemas, with ids and no content."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from broker.audit import ocsf
from broker.audit.events import Kind
from broker.audit.ocsf_classes import MAPPING, OTHER, SIGN_IN_REFUSED
from broker.errors import Malformed
from broker.formats import canonical_json, note, record
from broker.formats.merkle import leaf_hash
from tests.audit.ocsf_schemas import captions, faults, words
from tests.docs.document import Document

SENTENCE = "a sentence that somebody wrote"
FULL: dict[str, Any] = {
    "who": {"agent": "nightly", "instance": "i-1", "thumbprint": "jkt", "roles": ["admin"]},
    "for_whom": {"owner": "team", "subject": "job-7"},
    "what": {
        "action": "call", "operation": "chat.completions", "model": "e/m", "resource": "https://x/openai/v1",
        "token": "00ff", "token_id": "t-1", "expires_at_ms": 1_800_000_060_000, "purpose": SENTENCE,
    },
    "decision": {
        "outcome": "permit", "policies": ["a", "b"], "set": "5e7", "limited_by": "ceiling", "reason": "policy_denied",
        "why": SENTENCE, "inputs": {"text": SENTENCE},
    },
    "request": {
        "id": "r", "at_ms": 1_800_000_000_000, "source": "2001:db8::1", "status": 200, "failure": "left", "bytes": 7,
        "input_tokens": 3, "output_tokens": 4, "took_ms": 12, "admitted": 5, "minute": 30_000_000, "count": 9,
    },
    "posture": {"attester": "platform", "evidence": "ab12", "confirmation": "dpop", "rules": ["nightly-job"]},
    "remedy": {
        "section": "agents", "name": "nightly", "before": "active", "status": "revoked", "why": SENTENCE, "closes": 4,
        "change": "c-1", "approved_by": "sue", "operator": "rita", "key": "kid-1", "reason": SENTENCE,
        "differences": [{"section": "agents", "name": "x", "before": None, "after": {"purpose": SENTENCE}}],
    },
}  # fmt: skip


def _line(kind: Kind, groups: dict[str, Any], **more: Any) -> dict[str, Any]:
    entry = record.entry(kind, "0123abcd", 6, bytes(32))
    return {
        "index": 41, "at_ms": 1_800_000_000_000, "kind": str(kind), "agent": "nightly", "agent_tag": "0123abcd",
        "seq": 6,
        "outcome": groups.get("decision", {}).get("outcome", ""), "model": groups.get("what", {}).get("model", ""),
        "request_id": "r", "groups": groups, "withheld": [], "entry": note.encode_base64(entry), **more,
    }  # fmt: skip


def test_every_kind_is_mapped() -> None:
    """A new kind of record has its row before anybody exports it."""
    assert set(MAPPING) == set(Kind)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("outcome", ["permit", "deny", "none"])
def test_every_kind_is_a_valid_event(kind: Kind, outcome: str) -> None:
    """With everything that a record can hold; nothing in it that the published schemas do not know."""
    groups = {**FULL, "decision": {**FULL["decision"], "outcome": outcome}}
    event = ocsf.event(_line(kind, groups))
    assert faults(event) == []
    assert SENTENCE not in orjson.dumps(event).decode()


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("agent", ["nightly", "operator:sue", "broker", ""])
def test_a_record_whose_groups_were_erased_is_a_valid_event(kind: Kind, agent: str) -> None:
    """Nothing is made up for what is not shown; a principal without a name is its pseudonym."""
    event = ocsf.event(_line(kind, {}, agent=agent, model="", request_id=""))
    assert faults(event) == []
    users = [event.get("user"), event.get("actor", {}).get("user")]
    assert {user["uid"] for user in users if user} <= {agent or "0123abcd", "unknown"}


@pytest.mark.parametrize("group", FULL)
def test_a_record_with_one_group_erased_is_a_valid_event(group: str) -> None:
    """Whichever it is, for every kind."""
    groups = {name: value for name, value in FULL.items() if name != group}
    assert {kind: found for kind in Kind if (found := faults(ocsf.event(_line(kind, groups))))} == {}


@pytest.mark.parametrize("value", [None, 7, "text", ["x"], {"a": "b"}, True])
def test_members_of_another_type_do_no_harm(value: Any) -> None:
    """What a record of another version holds in a place that we know is left out, and the event stays valid."""
    groups = {name: dict.fromkeys(members, value) for name, members in FULL.items()}
    found = {kind: faults(ocsf.event(_line(kind, groups, model="e/m"))) for kind in Kind}
    assert {kind: wrong for kind, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize("mapped", [*MAPPING.values(), SIGN_IN_REFUSED])
def test_the_mapping_uses_the_schemas_own_words(mapped: Any) -> None:
    """Numbers and captions of class, category and activity are those of the published schema."""
    of = mapped.event_class
    assert captions(of.uid) == (of.name, of.category_uid, of.category)
    activities = words(of.uid, "activity_id")
    assert activities[str(mapped.activity_id)] == (mapped.activity if mapped.activity_id != OTHER else "Other")
    if mapped.activity_id == OTHER:
        assert mapped.activity not in activities.values()


def test_the_document_shows_the_mapping() -> None:
    """docs/exporting.md has the table that the code has."""
    rows = Document.read("docs/exporting.md").section("OCSF").table()
    shown = {row[0].strip("`"): row[1:] for row in rows}
    severities = {1: "informational", 2: "low", 3: "medium", 4: "high"}
    statuses = {1: "success", 2: "failure", 99: "other"}

    def told(mapped: Any) -> list[str]:
        of = mapped.event_class
        return [
            f"{of.name} ({of.uid})", f"{mapped.activity} ({mapped.activity_id})", statuses[mapped.status_id],
            severities[mapped.severity_id],
        ]  # fmt: skip

    assert shown == {
        **{str(kind): told(mapped) for kind, mapped in MAPPING.items()},
        "OperatorRefused, of a sign-in": told(SIGN_IN_REFUSED),
    }


def test_a_call_is_an_ai_operation() -> None:
    """Agent and instance, model and provider, tokens; the decision beside it; the leaf's exact bytes and hash."""
    line = _line(Kind.CALL_COMPLETED, FULL)
    event = ocsf.event(line)
    model = {"name": "m", "ai_provider": "e"}
    assert event["metadata"]["profiles"] == ["ai_operation", "security_control"]
    assert event["ai_agent"] == {"uid": "nightly", "name": "nightly", "instance_uid": "i-1", "ai_model": model}
    assert event["ai_model"] == model
    assert [event["message_context"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")] == [
        3,
        4,
        7,
    ]
    assert event["authorizations"] == [{"decision": "permit", "policy": {"uid": name}} for name in ("a", "b")]
    assert event["src_endpoint"] == {"ip": "2001:db8::1"}
    assert (event["time"], event["duration"], event["type_uid"]) == (1_800_000_000_000, 12, 600_399)
    entry = event["raw_data"].encode()
    assert record.parse_entry(entry).seq == event["unmapped"]["seq"] == 6
    assert event["metadata"]["uid"] == leaf_hash(entry).hex()
    assert event["metadata"]["sequence"] == 41


def test_a_token_is_a_logon_with_a_session() -> None:
    """The session is the token's id and end; a refusal says why in a stable word."""
    issued = ocsf.event(_line(Kind.TOKEN_ISSUED, FULL))
    assert issued["session"] == {"uid": "t-1", "expiration_time": 1_800_000_060_000}
    assert (issued["user"]["uid"], issued["user"]["type"], issued["status"]) == ("nightly", "Service", "Success")
    refused = ocsf.event(_line(Kind.TOKEN_REFUSED, {**FULL, "decision": {"outcome": "deny", "reason": "no_rule"}}))
    assert (refused["status_detail"], refused["action"], refused["type_uid"]) == ("no_rule", "Denied", 300_201)


def test_a_refused_sign_in_is_a_failed_logon() -> None:
    """And a refused request of the API is not."""
    line = _line(Kind.OPERATOR_REFUSED, {"what": {"action": "sign_in"}}, agent="operator:sue")
    assert ocsf.event(line)["class_uid"] == 3002
    assert ocsf.event(_line(Kind.OPERATOR_REFUSED, {"what": {"action": "approve"}}))["class_uid"] == 6003


def test_what_is_contained_is_the_entity() -> None:
    """And so is a key, the log's new key, a link's operator, an enrolled agent."""

    def entity(kind: Kind, remedy: dict[str, Any]) -> tuple[str, str]:
        found = ocsf.event(_line(kind, {"remedy": remedy}))["entity"]
        return found["type"], found["uid"]

    told = {"section": "endpoints", "name": "openai", "status": "disabled"}
    assert entity(Kind.AGENT_CONTAINED, told) == ("endpoints", "openai")
    assert entity(Kind.KEY_ENDED, {"key": "kid"}) == ("Signing Key", "kid")
    assert entity(Kind.LOG_KEY_ROTATED, {"old": "k1", "new": "k2"}) == ("Log Key", "k2")
    assert entity(Kind.LINK_ISSUED, {"operator": "rita", "key": "jkt"}) == ("Sign-in Link", "rita")
    assert entity(Kind.AGENT_ENROLLED, {}) == ("AI Agent", "nightly")


def test_an_unknown_kind_is_refused() -> None:
    """A newer broker's record is not passed on as something that it is not."""
    with pytest.raises(Malformed, match="does not know: Erased"):
        ocsf.event({**_line(Kind.CALL_ADMITTED, {}), "kind": "Erased"})


@pytest.mark.parametrize(
    "damage",
    [
        {"activity_id": 77},
        {"metadata": {"version": "1.9.0"}},
        {"ai_agent": {"instance_uid": "i"}},
        {"ai_agent": {"uid": "a", "purpose": "x"}},
        {"api": {"service": {"name": "x"}}},
        {"src_endpoint": {}},
        {"prompt": "x"},
        {"time": "now"},
    ],
)
def test_the_schemas_find_faults(damage: dict[str, Any]) -> None:
    """A wrong number, a missing member, one too many, another type: this check can fail."""
    assert faults({**ocsf.event(_line(Kind.CALL_ADMITTED, FULL)), **damage}) != []


def test_an_event_is_json_that_everybody_reads() -> None:
    """Whole numbers and texts alone."""
    assert canonical_json.canonical(ocsf.event(_line(Kind.CALL_COMPLETED, FULL)))

"""Records as events of the Open Cybersecurity Schema Framework, version 1.9.0 (https://schema.ocsf.io).

Ids, names, numbers and stable words alone are carried over: no sentence that a person, an agent or a provider wrote.
What a record does not show, because it never held it or because it was erased, is left out.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from broker.audit.events import BROKER, Kind
from broker.audit.ocsf_classes import AUTHENTICATION, ENTITY, LIFECYCLE, MAPPING, OTHER, SIGN_IN_REFUSED, Mapped
from broker.errors import Malformed
from broker.formats.merkle import leaf_hash

VERSION = "1.9.0"

_STATUS = {0: "Unknown", 1: "Success", 2: "Failure", 99: "Other"}
_SEVERITY = {1: "Informational", 2: "Low", 3: "Medium", 4: "High"}
_OAUTH = 6
_PRODUCT = {"name": "broker", "vendor_name": "broker"}


_OF_A_MODEL = frozenset(
    {Kind.CALL_ADMITTED, Kind.CALL_REFUSED, Kind.CALL_COMPLETED, Kind.CALL_FAILED, Kind.CALL_ABANDONED}
)
_OF_AN_AGENT = _OF_A_MODEL | {Kind.TOKEN_ISSUED, Kind.TOKEN_REFUSED, Kind.TOKEN_ABANDONED, Kind.AGENT_ENROLLED}


def event(line: Mapping[str, Any]) -> dict[str, Any]:
    """The event of a record.

    Args:
        line: a line of an export (`broker.audit.export.line`), parsed.

    Raises:
        Malformed: a kind that this version does not know.
    """
    try:
        kind = Kind(line["kind"])
    except ValueError as error:
        raise Malformed(
            f"Record {line['index']} is of a kind that this version does not know: {line['kind']}. "
            "Use the version of the broker that wrote it, or a newer one."
        ) from error
    groups = _Groups(line["groups"])
    mapped = MAPPING[kind]
    if kind is Kind.OPERATOR_REFUSED and groups.text("what", "action") == "sign_in":
        mapped = SIGN_IN_REFUSED
    decided = _decided(groups)
    about_ai = _ai(kind, line, groups)
    profiles = [name for name, found in (("ai_operation", about_ai), ("security_control", decided)) if found]
    return {
        **_base(line, mapped, profiles),
        **_given(status_detail=groups.text("decision", "reason") or groups.text("request", "failure")),
        **decided,
        **about_ai,
        **_class_members(kind, line, groups, mapped),
        "unmapped": {"agent_tag": line["agent_tag"], "seq": line["seq"], **_rest(groups)},
    }


@dataclass(frozen=True, slots=True)
class _Groups:
    """A record's groups, of which any member may be missing or of another type than today's."""

    groups: Mapping[str, Any]

    def text(self, group: str, name: str) -> str:
        value = self.groups.get(group, {}).get(name)
        return value if isinstance(value, str) else ""

    def number(self, group: str, name: str) -> int | None:
        value = self.groups.get(group, {}).get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def texts(self, group: str, name: str) -> list[str]:
        value = self.groups.get(group, {}).get(name)
        return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _given(**members: object) -> dict[str, object]:
    """The members that say something."""
    return {name: value for name, value in members.items() if value not in (None, "", [], {})}


def _base(line: Mapping[str, Any], mapped: Mapped, profiles: list[str]) -> dict[str, Any]:
    """What every event has. The entry is the exact bytes of the leaf, its hash the event's own id."""
    entry = base64.b64decode(line["entry"])
    return {
        "class_uid": mapped.event_class.uid,
        "class_name": mapped.event_class.name,
        "category_uid": mapped.event_class.category_uid,
        "category_name": mapped.event_class.category,
        "activity_id": mapped.activity_id,
        "activity_name": mapped.activity,
        "type_uid": mapped.event_class.uid * 100 + mapped.activity_id,
        "type_name": f"{mapped.event_class.name}: {mapped.activity if mapped.activity_id != OTHER else 'Other'}",
        "time": line["at_ms"],
        "severity_id": mapped.severity_id,
        "severity": _SEVERITY[mapped.severity_id],
        "status_id": mapped.status_id,
        "status": _STATUS[mapped.status_id],
        "metadata": {
            "version": VERSION,
            "product": _PRODUCT,
            "profiles": profiles,
            "uid": leaf_hash(entry).hex(),
            "sequence": line["index"],
            "event_code": line["kind"],
            "log_name": "audit",
            **_given(correlation_uid=line["request_id"]),
        },
        "raw_data": entry.decode("ascii"),
    }


def _decided(groups: _Groups) -> dict[str, Any]:
    """The profile `security_control`: how the policies decided, by which of them, under which set."""
    outcome = groups.text("decision", "outcome")
    if outcome not in ("permit", "deny"):
        return {}
    allowed = outcome == "permit"
    policies = groups.texts("decision", "policies")
    of_set = groups.text("decision", "set")
    return {
        "action_id": 1 if allowed else 2,
        "action": "Allowed" if allowed else "Denied",
        "disposition_id": 1 if allowed else 2,
        "disposition": "Allowed" if allowed else "Blocked",
        **_given(
            authorizations=[{"decision": outcome, "policy": {"uid": name}} for name in policies],
            policy=_given(uid=of_set, type="Cedar policy set" if of_set else ""),
        ),
    }


def _ai(kind: Kind, line: Mapping[str, Any], groups: _Groups) -> dict[str, Any]:
    """The profile `ai_operation`: which agent, which model, and how many tokens."""
    if kind not in _OF_AN_AGENT:
        return {}
    endpoint, slash, name = line["model"].partition("/")
    model = {"name": name or endpoint, "ai_provider": endpoint if slash else "unknown"} if line["model"] else {}
    instance = groups.text("who", "instance")
    told: dict[str, Any] = {
        "ai_agent": {"uid": _uid(line), "name": _uid(line), **_given(instance_uid=instance, ai_model=model)}
    }
    if kind in _OF_A_MODEL and model:
        told["ai_model"] = model
        asked, answered = (groups.number("request", name) for name in ("input_tokens", "output_tokens"))
        if asked is not None and answered is not None:
            told["message_context"] = {
                "ai_role_id": 2,
                "ai_role": "Assistant",
                "service": {"name": model["ai_provider"]},
                "prompt_tokens": asked,
                "completion_tokens": answered,
                "total_tokens": asked + answered,
            }
    return told


def _class_members(kind: Kind, line: Mapping[str, Any], groups: _Groups, mapped: Mapped) -> dict[str, Any]:
    """What the event's class has beside the base."""
    user = _user(line, groups)
    if mapped.event_class is LIFECYCLE:
        return {"app": _PRODUCT}
    source = _endpoint(groups.text("request", "source"))
    if mapped.event_class is AUTHENTICATION:
        expires = groups.number("what", "expires_at_ms")
        return {
            "user": user,
            "service": {"name": "broker"},
            "auth_protocol_id": _OAUTH,
            "auth_protocol": "OAUTH 2.0",
            "is_remote": True,
            **_given(src_endpoint=source, session=_given(uid=groups.text("what", "token_id"), expiration_time=expires)),
        }
    if mapped.event_class is ENTITY:
        return {"actor": {"user": user}, "entity": _entity(line, groups, mapped), **_given(src_endpoint=source)}
    token = groups.text("what", "token_id")
    code = groups.number("request", "status") or None
    members = {
        "actor": {"user": {"uid": "unknown", "type_id": 0} if kind is Kind.REFUSALS_COUNTED else user},
        "src_endpoint": source or {"name": "unknown"},
        "api": {
            "operation": groups.text("what", "operation") or groups.text("what", "action") or line["kind"],
            "service": {"name": "broker"},
            "request": {"uid": line["request_id"]},
            **_given(response=_given(code=code, error=groups.text("request", "failure")), token=_given(uid=token)),
        },
        **_given(
            count=groups.number("request", "count"),
            duration=groups.number("request", "took_ms"),
            resources=_resources(line, groups),
        ),
    }
    minute = groups.number("request", "minute")
    return (
        members if minute is None else {**members, "start_time": minute * 60_000, "end_time": minute * 60_000 + 59_999}
    )


def _user(line: Mapping[str, Any], groups: _Groups) -> dict[str, Any]:
    """The principal: an operator is an admin, the broker the system, everybody else a service."""
    uid = _uid(line)
    type_id, type_name = (
        (2, "Admin") if uid.startswith("operator:") else (3, "System") if uid == BROKER else (4, "Service")
    )
    return {
        "uid": uid,
        "name": uid,
        "type_id": type_id,
        "type": type_name,
        **_given(credential_uid=groups.text("who", "thumbprint")),
    }


def _uid(line: Mapping[str, Any]) -> str:
    """The principal's id, or its pseudonym where that is all that is shown."""
    return str(line["agent"] or line["agent_tag"])


def _endpoint(source: str) -> dict[str, str]:
    if not source:
        return {}
    try:
        return {"ip": str(ip_address(source))}
    except ValueError:
        return {"name": source}


def _entity(line: Mapping[str, Any], groups: _Groups, mapped: Mapped) -> dict[str, Any]:
    """What was enrolled, contained, made or ended."""
    named = (
        ("remedy", "name"),  # what was contained
        ("remedy", "operator"),  # whom a link is for
        ("remedy", "new"),  # the log's new key
        ("remedy", "key"),
    )
    shown = next((found for group, name in named if (found := groups.text(group, name))), "")
    uid = _uid(line) if mapped.entity == "AI Agent" else shown or "unknown"
    return {"uid": uid, "type_id": OTHER, "type": mapped.entity or groups.text("remedy", "section") or "unknown"}


def _resources(line: Mapping[str, Any], groups: _Groups) -> list[dict[str, str]]:
    """What a request was about: the model, the resource, or the things that a change changes."""
    found = [{"uid": line["model"], "type": "model"}] if line["model"] else []
    if resource := groups.text("what", "resource"):
        found.append({"uid": resource, "type": "resource"})
    if change := groups.text("remedy", "change"):
        found.append({"uid": change, "type": "change"})
    differences = groups.groups.get("remedy", {}).get("differences")
    for each in differences if isinstance(differences, list) else []:
        if isinstance(each, dict) and isinstance(each.get("name"), str) and isinstance(each.get("section"), str):
            found.append({"uid": each["name"], "type": each["section"]})
    return found


def _rest(groups: _Groups) -> dict[str, Any]:
    """Ids for which the schema has no place."""
    return _given(
        owner=groups.text("for_whom", "owner"),
        subject=groups.text("for_whom", "subject"),
        attester=groups.text("posture", "attester"),
        evidence=groups.text("posture", "evidence"),
        confirmation=groups.text("posture", "confirmation"),
        limited_by=groups.text("decision", "limited_by"),
        token_sha256=groups.text("what", "token"),
        admitted=groups.number("request", "admitted"),
        closes=groups.number("remedy", "closes"),
        status=groups.text("remedy", "status"),
        approved_by=groups.text("remedy", "approved_by"),
    )

"""The schema of every kind of record: its groups, their members, which of them are required. Closed.

A record that does not fit is a bug: the tests check every record that they cause, and the broker itself none, for that
would cost time where there is none. Told as JSON Schema (2020-12), over the object of a record's groups by name. A
kind's `version` rises with every change after the first release; `BrokerStarted` names the digest of all schemas.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from broker.audit.events import ABANDONED, Kind
from broker.errors import NotFound
from broker.formats.canonical_json import canonical

Type = Mapping[str, Any]
"""A JSON Schema that says what a member is."""

Members = Mapping[str, Type]
"""Members by name; one whose name ends in "?" may be absent."""

TEXT: Type = {"type": "string"}
NUMBER: Type = {"type": "integer"}
FLAG: Type = {"type": "boolean"}
TEXTS: Type = {"type": "array", "items": TEXT}
ANY: Type = {"type": "object"}
"""Members of its own, which another schema describes: the policies' vocabulary, a manifest, a query."""
OUTCOME: Type = {"enum": ["permit", "deny"]}
PERMIT: Type = {"const": "permit"}
DENY: Type = {"const": "deny"}


def closed(members: Members) -> Type:
    """An object with these members and no others."""
    return {
        "type": "object",
        "properties": {name.removesuffix("?"): type for name, type in members.items()},
        "required": [name for name in members if not name.endswith("?")],
        "additionalProperties": False,
    }


@dataclass(frozen=True, slots=True)
class Schema:
    """What records of one kind hold.

    Args:
        groups: the members of each group; a group whose name ends in "?" may be absent.
        version: rises when it changes.
    """

    groups: Mapping[str, Members]
    version: int = 1

    def document(self, kind: Kind) -> dict[str, Any]:
        """The schema as a document of its own."""
        whole = closed({name: closed(members) for name, members in self.groups.items()})
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"urn:broker:record:{kind}:{self.version}",
            "title": str(kind),
            "version": self.version,
            **whole,
        }


_MAYBE_NUMBER: Type = {"type": ["integer", "null"]}
_RANGE: Type = {"type": "array", "items": NUMBER}
_REQUEST: Members = {"id": TEXT, "at_ms": NUMBER}
_CLOSES: Members = {"closes": NUMBER, "why": TEXT}
_ANSWERED: Members = {"policies": TEXTS, "limited_by": TEXT}
_ASKED: Members = {"action": TEXT, "inputs": ANY, "entities": TEXT}
_DECIDED: Members = {**_ANSWERED, **_ASKED, "set": TEXT}
_BRIEF = closed({**_ANSWERED, "entities": TEXT})
_MAYBE_ASKED: Members = {f"{name}?": type for name, type in _ASKED.items()}
_MAYBE_DECIDED: Members = {**{f"{name}?": type for name, type in _ANSWERED.items()}, **_MAYBE_ASKED}
_WHO: Members = {"agent": TEXT, "instance": TEXT, "thumbprint": TEXT}
_OPERATOR: Members = {"agent": TEXT, "roles": TEXTS}
_CHANGED: Members = {"outcome": OUTCOME, "set": TEXT, "operator?": closed({"outcome": OUTCOME, **_DECIDED})}
_KEY: Members = {"action": TEXT, "key": TEXT}

_EXCHANGE: Mapping[str, Members] = {
    "who": {"agent": TEXT, "thumbprint": TEXT},
    "for_whom": {"owner": TEXT, "subject": TEXT},
    "what": {"action": TEXT, "resource": TEXT},
    "request": {**_REQUEST, "source": TEXT, "grant": TEXT},
    "posture": {"attester": TEXT, "evidence": TEXT, "rules": TEXTS, "confirmation": TEXT},
}
_CALL: Mapping[str, Members] = {
    "who": _WHO,
    "for_whom": {"owner": TEXT},
    "what": {"action": TEXT, "operation": TEXT, "model": TEXT, "token_id": TEXT},
    "request": {**_REQUEST, "source": TEXT, "bytes": NUMBER},
    "posture": {"confirmation": TEXT},
}
_ENDED: Mapping[str, Members] = {
    "who": {"agent": TEXT, "instance": TEXT},
    "for_whom": {"owner": TEXT},
    "what": {"action": TEXT, "model": TEXT},
    "request": {
        **_REQUEST, "status": NUMBER, "failure": TEXT, "bytes": NUMBER, "input_tokens": _MAYBE_NUMBER,
        "output_tokens": _MAYBE_NUMBER, "took_ms": NUMBER, "admitted": NUMBER,
    },
}  # fmt: skip
_DIFFERENCE = closed(
    {"section": TEXT, "name": TEXT, "before": {"type": ["object", "null"]}, "after": {"type": ["object", "null"]}}
)
_ACCOUNT: Members = {
    "change": TEXT, "base": TEXT, "set": TEXT, "cases": NUMBER, "count": NUMBER,
    "differences?": {"type": "array", "items": _DIFFERENCE}, "differences_sha256?": TEXT,
}  # fmt: skip
_LOST = closed({"held": NUMBER, "why": TEXT, "published?": NUMBER, "published_root?": TEXT})
_RESTORED = closed({"size": NUMBER, "root": TEXT, "records": NUMBER, "backup_at_ms": NUMBER, "restored_at_ms": NUMBER})

_BEGUN: Mapping[Kind, Schema] = {
    Kind.BROKER_STARTED: Schema(
        {
            "request": _REQUEST,
            "remedy": {"policies": TEXT, "log_key": TEXT, "schemas": TEXT, "restored?": _RESTORED, "lost?": _LOST},
        }
    ),
    Kind.BROKER_STOPPED: Schema({"request": _REQUEST}),
    Kind.TOKEN_ISSUED: Schema(
        {
            **_EXCHANGE,
            "who": {**_EXCHANGE["who"], "instance": TEXT},
            "what": {**_EXCHANGE["what"], "token": TEXT, "token_id": TEXT, "expires_at_ms": NUMBER},
            "decision": {"outcome": PERMIT, **_DECIDED, "enrolment?": _BRIEF},
        }
    ),
    Kind.TOKEN_REFUSED: Schema(
        {
            **_EXCHANGE,
            "decision": {"outcome": DENY, "set": TEXT, **_MAYBE_DECIDED, "enrolment?": _BRIEF, "reason": TEXT},
            "posture": {**_EXCHANGE["posture"], "why": TEXT},
        }
    ),
    Kind.AGENT_ENROLLED: Schema(
        {
            **_EXCHANGE,
            "for_whom": {**_EXCHANGE["for_whom"], "purpose": TEXT},
            "what": {**_EXCHANGE["what"], "ceiling": TEXTS},
            "decision": {"outcome": PERMIT, **_DECIDED},
        }
    ),
    Kind.AGENT_CONTAINED: Schema(
        {
            "who": _OPERATOR,
            "what": {"action": TEXT},
            "decision": _CHANGED,
            "request": _REQUEST,
            "remedy": {"section": TEXT, "name": TEXT, "before": TEXT, "status": TEXT, "why": TEXT},
        }
    ),
    Kind.CALL_ADMITTED: Schema({**_CALL, "decision": {"outcome": PERMIT, **_DECIDED}}),
    Kind.CALL_REFUSED: Schema(
        {**_CALL, "decision": {"outcome": DENY, "reason": TEXT, "set": TEXT, **_ANSWERED, **_MAYBE_ASKED}}
    ),
    Kind.CALL_COMPLETED: Schema(_ENDED),
    Kind.CALL_FAILED: Schema(_ENDED),
    Kind.REFUSALS_COUNTED: Schema(
        {
            "decision": {"outcome": DENY, "reason": TEXT},
            "request": {**_REQUEST, "source": TEXT, "minute": NUMBER, "count": NUMBER},
        }
    ),
    Kind.CHANGE_PROPOSED: Schema(
        {"who": _OPERATOR, "what": {"action": TEXT}, "decision": _CHANGED, "request": _REQUEST, "remedy": _ACCOUNT}
    ),
    Kind.CHANGE_REFUSED: Schema(
        {
            "who": _OPERATOR,
            "what": {"action": TEXT},
            "decision": _CHANGED,
            "request": _REQUEST,
            "remedy": {"reason": TEXT, "why?": TEXT, "change?": TEXT},
        }
    ),
    Kind.CHANGE_ACTIVATED: Schema(  # the first is the broker's own: nobody asked for it, and no set decided it
        {
            "who?": _OPERATOR,
            "what?": {"action": TEXT},
            "decision?": _CHANGED,
            "request": _REQUEST,
            "remedy": {
                **{name if name.endswith("?") else f"{name}?": type for name, type in _ACCOUNT.items()},
                "approved_by?": TEXT,
                "why?": TEXT,
            },
        }
    ),
    Kind.KEY_PUBLISHED: Schema(
        {
            "what": _KEY,
            "request": _REQUEST,
            "remedy": {"key": TEXT, "why": TEXT, "algorithm?": TEXT, "in_use_from_ms?": NUMBER},
        }
    ),
    Kind.KEY_IN_USE: Schema(
        {"what": _KEY, "request": _REQUEST, "remedy": {"key": TEXT, "why": TEXT, "follows?": TEXT}}
    ),
    Kind.KEY_ENDED: Schema(
        {"what": _KEY, "request": _REQUEST, "remedy": {"key": TEXT, "why": TEXT, "compromised?": FLAG}}
    ),
    Kind.LOG_KEY_ROTATED: Schema(
        {
            "what": _KEY,
            "request": _REQUEST,
            "remedy": {
                "old": TEXT, "new": TEXT, "size": NUMBER, "statement": TEXT, "overlaps_until_ms": NUMBER,
                "compromised": FLAG, "why": TEXT,
            },
        }
    ),
    Kind.LOG_KEY_ENDED: Schema({"what": _KEY, "request": _REQUEST, "remedy": {"key": TEXT, "why": TEXT}}),
    Kind.LINK_ISSUED: Schema(
        {
            "who?": _OPERATOR,
            "what": {"action": TEXT},
            "decision?": _CHANGED,
            "request": _REQUEST,
            "remedy": {"operator": TEXT, "lifetime_s": NUMBER, "key?": TEXT, "change?": TEXT},
        }
    ),
    Kind.OPERATOR_SIGNED_IN: Schema(
        {
            "who": {"agent": TEXT, "thumbprint": TEXT},
            "what": {"action": TEXT},
            "decision": {"outcome": PERMIT},
            "request": {**_REQUEST, "source": TEXT},
        }
    ),
    Kind.OPERATOR_REFUSED: Schema(
        {
            "who": {"agent": TEXT, "thumbprint": TEXT},
            "what": {"action": TEXT, "resource?": TEXT},
            "decision": {
                "outcome": DENY, "set?": TEXT, **_MAYBE_DECIDED, "reason?": TEXT, "why?": TEXT,
            },
            "request": {**_REQUEST, "source": TEXT},
        }
    ),
    Kind.RECORDS_ERASED: Schema(
        {
            "who": {"agent": TEXT},
            "what": {"action": TEXT},
            "request": _REQUEST,
            "remedy": {
                "groups": TEXTS, "records": {"type": "array", "items": _RANGE}, "count": NUMBER, "inputs": NUMBER,
                "why": TEXT,
            },
        }
    ),
    Kind.TRAIL_READ: Schema(
        {
            "who": {**_OPERATOR, "query?": ANY},
            "what": {"action": TEXT, "way": TEXT, "index?": NUMBER, "range?": _RANGE},
            "decision": {"outcome": PERMIT, **_DECIDED},
            "request": {**_REQUEST, "source": TEXT, "shown": NUMBER, "next": _MAYBE_NUMBER, "withheld": TEXTS},
        }
    ),
    Kind.SHARED_QUERY_CHANGED: Schema(
        {
            "who": {**_OPERATOR, "query": {"type": ["object", "null"]}},
            "what": {"action": TEXT},
            "request": {**_REQUEST, "source": TEXT},
            "remedy": {"name": TEXT},
        }
    ),
}  # fmt: skip


def _abandoned(end: Kind) -> Schema:
    """A closing record repeats what it closes, as far as the one who writes it knows that."""
    groups: dict[str, dict[str, Type]] = {}
    for kind, schema in _BEGUN.items():
        if ABANDONED.get(kind) is end:
            for name, members in schema.groups.items():
                maybe = {member if member.endswith("?") else f"{member}?": type for member, type in members.items()}
                groups.setdefault(name.removesuffix("?"), {}).update(maybe)
    told = {f"{name}?": members for name, members in groups.items() if name not in ("request", "remedy")}
    request = {name: type for name, type in groups["request"].items() if name.removesuffix("?") not in _REQUEST}
    return Schema({**told, "request": {**_REQUEST, **request}, "remedy": _CLOSES})


SCHEMAS: Mapping[Kind, Schema] = {**_BEGUN, **{end: _abandoned(end) for end in set(ABANDONED.values())}}
"""One for every kind."""


@cache
def document(kind: Kind) -> dict[str, Any]:
    """The JSON Schema of one kind's groups.

    Raises:
        NotFound: there is no such kind.
    """
    if kind not in SCHEMAS:
        raise NotFound(f"There is no kind of record {kind}.")
    return SCHEMAS[kind].document(kind)


def tells(kind: str, group: str, member: str) -> bool:
    """Whether each record of a kind tells this member; a kind that is not known is one of which nothing is known."""
    schema = SCHEMAS.get(kind)  # type: ignore[call-overload]  # a text is a key that may be there
    return schema is not None and member in schema.groups.get(group, {})


@cache
def digest() -> str:
    """The SHA-256 of all schemas, as `BrokerStarted` names it."""
    return hashlib.sha256(canonical({str(kind): document(kind) for kind in sorted(SCHEMAS)})).hexdigest()


def misfits(kind: str, groups: Mapping[str, Any]) -> list[str]:
    """What in a record's groups does not fit its kind's schema, by path; nothing if it fits."""
    return list(_misfits(document(Kind(kind)), groups, kind))


def _misfits(schema: Type, value: object, path: str) -> Iterator[str]:
    if "enum" in schema or "const" in schema:
        allowed = schema.get("enum", [schema.get("const")])
        if value not in allowed:
            yield f"{path}: {value!r} is none of {allowed}"
        return
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(_is(type, value) for type in types):
        yield f"{path}: {value!r} is no {' or '.join(types)}"
        return
    if isinstance(value, Mapping) and "properties" in schema:
        yield from (f"{path}.{name} is missing" for name in schema["required"] if name not in value)
        for name, member in value.items():
            if name not in schema["properties"]:
                yield f"{path}.{name} is not in the schema"
            else:
                yield from _misfits(schema["properties"][name], member, f"{path}.{name}")
    elif isinstance(value, list) and "items" in schema:
        for place, item in enumerate(value):
            yield from _misfits(schema["items"], item, f"{path}.{place}")


def _is(type: str, value: object) -> bool:
    kinds = {"string": str, "boolean": bool, "array": list, "object": Mapping}
    if type == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return value is None if type == "null" else isinstance(value, kinds[type])

"""What the policy tests speak about: the shipped set, a small vocabulary of their own, and some entities."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from broker.policy import engine
from broker.policy.engine import Entity, PolicySet, Request
from broker.policy.shipped import PolicyFiles, shipped

GATEWAY = Entity(("Audience", "https://broker.example/openai/v1"), {"kind": "gateway"})
API = Entity(("Audience", "https://broker.example/api/v1"), {"kind": "api"})
BROKER = Entity(("Broker", "broker"))


@cache
def shipped_files() -> PolicyFiles:
    """The shipped texts, read once."""
    return shipped()


@cache
def shipped_set() -> PolicySet:
    """The shipped set, compiled once."""
    return engine.compile(shipped_files().schema, shipped_files().files)


def compiled(*policies: str, **files: str) -> PolicySet:
    """A set with the shipped vocabulary: `policies` as `some.cedar`, and `name="text"` as `name.cedar`."""
    texts = {f"{name}.cedar": text for name, text in files.items()}
    if policies:
        texts["some.cedar"] = "\n".join(policies)
    return engine.compile(shipped_files().schema, texts)


def extended(**files: str) -> PolicySet:
    """The shipped set with more files."""
    more = {f"{name}.cedar": text for name, text in files.items()}
    return engine.compile(shipped_files().schema, {**shipped_files().files, **more})


def agent(name: str = "triage", **changes: object) -> Entity:
    """An active agent whose ceiling is openai/gpt-4o-mini, with changed attributes."""
    attrs: dict[str, object] = {
        "owner": "team-support",
        "purpose": "sorts tickets",
        "kind": "agent",
        "status": "active",
        "ceiling": ["openai/gpt-4o-mini"],
        "enrolled_by": "",
    }
    return Entity(("Agent", name), {**attrs, **changes})


def model(name: str = "openai/gpt-4o-mini") -> Entity:
    """A model, in its endpoint."""
    endpoint = name.partition("/")[0]
    attrs = {"name": name, "family": f"{endpoint}/*"}
    return Entity(("Model", name), attrs, parents=(("Endpoint", endpoint),))


def operator(name: str, *roles: str, status: str = "active") -> Entity:
    """An operator with roles."""
    return Entity(("Operator", name), {"status": status}, parents=tuple(("Role", role) for role in roles))


def call(who: Entity, what: Entity, **context: object) -> Request:
    """A request to call a model."""
    facts: dict[str, object] = {"operation": "chat.completions", "stream": False, "confirmation": "dpop"}
    return Request(who.uid, "call", what.uid, {**facts, **context})


def exchange(who: Entity, audience: Entity = GATEWAY, **context: object) -> Request:
    """A request for a token."""
    facts: Mapping[str, object] = {
        "confirmation": "dpop",
        "attester": "github",
        "grant": "urn:ietf:params:oauth:grant-type:token-exchange",
        "lifetime_s": 300,
    }
    return Request(who.uid, "exchange", audience.uid, {**facts, **context})

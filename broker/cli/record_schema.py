"""What records hold, as the broker that wrote them says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from broker.audit.events import Kind
from broker.cli.output import Json, print_json, print_table, refusing, say


def schema(
    kind: Annotated[Kind | None, typer.Argument(help="One kind of record.", metavar="[KIND]")] = None,
    json: Json = False,
) -> None:
    """Shows the schema of a kind of record, or which kinds there are; with --json as JSON Schema.

    Example: `broker audit schema CallAdmitted`
    """
    with refusing(json):
        from broker.cli.answers import ApiFailed, Schemas
        from broker.cli.api import Api

        with Api() as api:
            found = api.get("/audit/schema", Schemas, kind=kind)
        if json:
            print_json(found)
            return
        if kind is None:
            rows = [[name, each["version"], " ".join(each["properties"])] for name, each in found["kinds"].items()]
            print_table(("kind", "version", "groups"), rows, empty="", whole=("kind",))
            return
        document = found["kinds"].get(kind)
        if document is None:
            raise ApiFailed(f"The broker says nothing of {kind}. Is it of the version of this command?")
        say(f"{kind}, version {document['version']}", "bold")
        print_table(("group", "member", "type", ""), list(_rows(document)), empty="It has no groups.")


def _rows(document: Mapping[str, Any]) -> Iterator[list[object]]:
    for name, group in document["properties"].items():
        title = name if name in document["required"] else f"{name} (may be absent)"
        for member, type in group["properties"].items():
            yield [title, member, _type(type), "" if member in group["required"] else "may be absent"]
            title = ""


def _type(type: Mapping[str, Any]) -> str:
    """A type in a word: `string`, `integer or null`, `list of string`, or the values that there are."""
    if "const" in type or "enum" in type:
        return " or ".join(type.get("enum", [type.get("const")]))
    if type.get("items"):
        return f"list of {_type(type['items'])}"
    names = type.get("type", "anything")
    return names if isinstance(names, str) else " or ".join(names)

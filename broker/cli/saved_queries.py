"""Saved queries on the terminal: what can be run, and what is kept no longer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.cli.output import Json, err, print_json, print_table, refusing, say, utc

if TYPE_CHECKING:
    from broker.cli.api import Api

_PATH = "/audit/queries"


def saved(
    forget: Annotated[str, typer.Option(help="Forget the query of this name.", metavar="NAME")] = "",
    shared: Annotated[bool, typer.Option("--shared", help="With --forget: the one that everybody shares.")] = False,
    json: Json = False,
) -> None:
    """Lists the saved queries that you can run with `broker audit search --saved NAME`, or forgets one.

    Example: `broker audit saved`
    """
    with refusing(json):
        from broker.cli.answers import SavedQueries
        from broker.cli.api import Api

        with Api() as api:
            if forget:
                told = api.post(_PATH, {"name": forget, "query": None, "shared": shared})
                if json:
                    print_json(told)
                else:
                    say(f"Forgot {forget}.")
                return
            found = api.get(_PATH, SavedQueries)
        if json:
            print_json(found)
            return
        rows = [
            [
                query["name"],
                "shared" if query["shared"] else "yours",
                " ".join(f"{name}={value}" for name, value in query["query"].items()),
                f"{utc(query['changed_at_ms'] / 1000, 'seconds')} {query['changed_by']}",
            ]
            for query in found["queries"]
        ]
        print_table(("name", "whose", "asks for", "changed"), rows, empty="No query is saved.", whole=("name",))


def keep(api: Api, name: str, asked: Mapping[str, Any], *, shared: bool) -> None:
    """Saves what a search asks for, and says so beside its answer."""
    query = {member: value for member, value in asked.items() if value}
    api.post(_PATH, {"name": name, "query": query, "shared": shared})
    err.print(f"Saved as {name}{', for everybody' if shared else ''}: `broker audit search --saved {name}` runs it.")

"""How commands speak: tables for people, `--json` for machines, one line for what went wrong.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from broker.errors import BrokerError

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@contextmanager
def refusing() -> Iterator[None]:
    """Turns the broker's own errors into one line on standard error and exit code 1."""
    try:
        yield
    except BrokerError as error:
        err.print(Text.assemble(("broker: ", "bold red"), error.detail))
        raise typer.Exit(1) from None


def print_json(value: object) -> None:
    """Prints JSON, as it is, to standard output."""
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Prints a table, or the sentence `empty` when there are no rows."""
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    if table.row_count:
        out.print(table)
    else:
        out.print(empty)


def print_fields(fields: Mapping[str, Any]) -> None:
    """Prints one thing, a line a field."""
    print_table(("", ""), fields.items(), empty="")


def _cell(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, Mapping):
        return orjson.dumps(value).decode()
    return "" if value is None else str(value)

"""How commands speak: tables for people, `--json` for machines, one line for what went wrong.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage. With `--json`, standard output holds one JSON document, whatever
happens: a failure is `{"error": a stable word, "detail": a sentence}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from io import StringIO
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from broker.errors import BrokerError

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

_ROOMY = 100
"""Columns of a terminal from which on some columns of a table need no folding."""

_ACTED_ON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Beside what JSON itself escapes: controls of the C1 set, and what turns the direction of writing."""

_WIDE = 100_000
"""Columns of what is no terminal: a pipe gets every row on one line, whole."""


@contextmanager
def refusing(json: bool = False) -> Iterator[None]:
    """Turns the broker's own errors, and files that cannot be used, into one line and exit code 1."""
    try:
        yield
    except BrokerError as error:
        fail(error.detail, reason=error.reason, json=json)
    except OSError as error:
        fail(f"{error.filename or 'a file'}: {error.strerror or error}", reason="file", json=json)


def fail(detail: str, *, reason: str, json: bool) -> None:
    """Says what went wrong and ends the command with exit code 1."""
    if json:
        print_json({"error": reason, "detail": detail})
    else:
        err.print(Text.assemble(("broker: ", "bold red"), plain(detail)))
    raise typer.Exit(1)


def plain(text: str) -> str:
    """The text with everything that a terminal would act on written out, for agents choose some of what is shown."""
    if text.isprintable():
        return text
    shown = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text.expandtabs(4))
    return "".join(shown)


def plain_line(text: str) -> str:
    """The same on one line, where a second one could pass for another's."""
    return plain(text).replace("\n", "\\n")


def json_text(value: object, option: int = 0) -> str:
    """A JSON text in which no string holds what a terminal would act on; to a program it says the same."""
    return _ACTED_ON.sub(lambda found: f"\\u{ord(found[0]):04x}", orjson.dumps(value, option=option).decode())


def say(text: str = "", style: str = "") -> None:
    """Prints a line as it is, without reading markup in it."""
    out.print(Text(plain(text), style))


def print_json(value: object) -> None:
    """Prints JSON, as it is, to standard output."""
    typer.echo(json_text(value, orjson.OPT_INDENT_2))


def print_json_items(name: str, items: Iterable[object], rest: Callable[[], Mapping[str, object]]) -> None:
    """Prints `{name: [items], **rest()}` as the items come, so that there may be more than fit into memory."""
    between = f'{{"{name}": [\n'
    for item in items:
        typer.echo(between + json_text(item), nl=False)
        between = ",\n"
    typer.echo((between if between[0] == "{" else "") + "], " + json_text(rest())[1:])


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str, whole: Sequence[str] = ()
) -> None:
    """Prints a table, or the sentence `empty` when there are no rows.

    Nothing is cut: a terminal folds cells, in columns named `whole` only if it is narrow; elsewhere a row is a line.
    """
    roomy = out.width >= _ROOMY
    table = Table(box=None, header_style="bold", pad_edge=False, show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=roomy and column in whole)
    shown = plain if out.is_terminal else plain_line
    for row in rows:
        table.add_row(*(value if isinstance(value, Text) else Text(shown(words(value))) for value in row))
    if not table.row_count:
        out.print(empty)
    elif out.is_terminal:
        out.print(table)
    else:
        buffer = StringIO()
        Console(file=buffer, width=_WIDE, color_system=None).print(table)
        typer.echo("\n".join(line.rstrip() for line in buffer.getvalue().splitlines()))


def print_fields(fields: Mapping[str, Any]) -> None:
    """Prints one thing, a line a field."""
    print_table(("", ""), fields.items(), empty="")


def words(value: object) -> str:
    """A value as a cell shows it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return orjson.dumps(value).decode()
    return "" if value is None else str(value)


def utc(seconds: float, to: str = "milliseconds") -> str:
    """A moment in ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=to).replace("+00:00", "Z")


@contextmanager
def progress(what: str, total: int, *, json: bool) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal while something long is done; gives what tells it how far that is. None with `--json`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True, disable=json or not err.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)

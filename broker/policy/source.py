"""Policy files as text: names, limits, and where each policy begins.

Cedar reports no line numbers and names policies by position. So a file is cut into its statements first, and
each is parsed alone. A `;` ends a statement unless it stands in a comment or a text; Cedar's grammar has no
other place for it, no block comments and no raw strings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from broker.errors import PolicyInvalid

SCHEMA_NAME = "schema.cedarschema"

MAX_FILES = 200
MAX_FILE_CHARS = 4_000_000
MAX_SCHEMA_CHARS = 100_000
MAX_POLICIES = 20_000

_FILE_NAME = re.compile(r"[a-z0-9_-]{1,64}\.cedar")
_TOKEN = re.compile(r'//[^\n]*|"(?:[^"\\]|\\.)*"|;', re.DOTALL)
_BLANK = re.compile(r"(?:\s|//[^\n]*(?:\n|$))*")


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy's text, from its first annotation to its `;`, and the line in its file where it begins."""

    file: str
    line: int
    text: str


def refusal(file: str, message: str, *, line: int | None = None, policy: str | None = None) -> PolicyInvalid:
    """The error for one place in a set: `exchange.cedar, line 12, policy "agents": message`."""
    place = file
    if line is not None:
        place += f", line {line}"
    if policy:
        place += f', policy "{policy}"'
    return PolicyInvalid(f"{place}: {message}")


def check_limits(schema: str, files: Mapping[str, str]) -> None:
    """Refuses what is too large or wrongly named, before any of it is parsed.

    Raises:
        PolicyInvalid: with the file's name.
    """
    if len(schema) > MAX_SCHEMA_CHARS:
        raise refusal(SCHEMA_NAME, f"more than {MAX_SCHEMA_CHARS} characters; make the vocabulary smaller.")
    if len(files) > MAX_FILES:
        raise PolicyInvalid(f"{len(files)} policy files; a set may have {MAX_FILES}.")
    for name, text in files.items():
        if not _FILE_NAME.fullmatch(name):
            raise refusal(
                repr(name),
                "name policy files with small letters, digits, - and _, ending in .cedar, without a folder.",
            )
        if len(text) > MAX_FILE_CHARS:
            raise refusal(name, f"more than {MAX_FILE_CHARS} characters; split it into several files.")


def statements(file: str, text: str) -> tuple[Statement, ...]:
    """Cuts a policy file into its policies. Comments that precede a policy are not part of it.

    Raises:
        PolicyInvalid: something follows the last `;`.
    """
    found = []
    start = _skip_blank(text, 0)
    line = 1 + text.count("\n", 0, start)
    for token in _TOKEN.finditer(text, start):
        if token.group() == ";":
            found.append(Statement(file, line, text[start : token.end()]))
            following = _skip_blank(text, token.end())
            line += text.count("\n", start, following)
            start = following
    if start < len(text):
        raise refusal(file, "the last policy has no end; close it with a semicolon.", line=line)
    return tuple(found)


def _skip_blank(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    return match.end() if match else position

"""Policy files as text: names, limits, and where each policy begins.

Cedar reports no line numbers and names policies by position. So a file is cut into its statements first, and
each is parsed alone. A `;` ends a statement unless it stands in a comment or a text; Cedar's grammar has no
other place for it, no block comments and no raw strings. A comment ends with its line, and to Cedar a carriage return
ends a line too.

Cedar's parser is recursive, on the thread's own stack: what is nested deep enough, or chained long enough, kills the
process. So each statement is measured before Cedar sees it. On a stack of 2 MB, a quarter of what threads have,
Cedar survives 100 brackets or 300 operators; tests/policy/test_source.py tries the limits there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from broker.errors import PolicyInvalid

SCHEMA_NAME = "schema.cedarschema"

MAX_FILES = 200
MAX_CHARS = 4_000_000
"""Of all policy files together: 10,000 policies of the usual size are 3,000,000."""
MAX_SCHEMA_CHARS = 32_768
MAX_SCHEMA_DEPTH = 8
MAX_KINDS = 200
"""Of requests: combinations of action, principal type and resource type. A policy is validated for each of its own."""
MAX_POLICIES = 12_000
MAX_STATEMENT_CHARS = 16_384
MAX_OPERATIONS = 250
MAX_DEPTH = 24

_APPLIES = re.compile(r"^  principal: \[(.*)\],\n  resource: \[(.*)\],$", re.MULTILINE)
_FILE_NAME = re.compile(r"[a-z0-9_-]{1,64}\.cedar")
# A text without an end is one token to the end of the file: to look again from each quote inside it would take forever.
_TOKEN = re.compile(r'//[^\n\r]*|"(?:[^"\\]|\\.)*+"?|;', re.DOTALL)
_BLANK = re.compile(r"(?:\s|//[^\n\r]*)*+")
_OPERATION = re.compile(
    r'(?P<words>//[^\n\r]*|"(?:[^"\\]|\\.)*+"?)|&&|\|\||[=!<>]=|[&|=!<>+*/%.({\[-]|[)}\]]'
    r"|\b(?:if|then|else|has|like|in|is|when|unless)\b",
    re.DOTALL,
)
_NOT_MEANT = re.compile(r'//[^\n\r]*|"(?:[^"\\]|\\.)*+(?:"|(?P<endless>\Z|\\))', re.DOTALL)
_SCHEMA_TOKEN = re.compile(r"[({\[<]|[)}\]>]|\btype\s+\w+\s*=")


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
    _check_schema(schema)
    if len(files) > MAX_FILES:
        raise PolicyInvalid(f"{len(files)} policy files; a set may have {MAX_FILES}.")
    for name in files:
        if not _FILE_NAME.fullmatch(name):
            raise refusal(
                repr(name),
                "name policy files with small letters, digits, - and _, ending in .cedar, without a folder.",
            )
    if sum(map(len, files.values())) > MAX_CHARS:
        raise PolicyInvalid(
            f"The policy files have more than {MAX_CHARS} characters together; one rule can cover many."
        )


def check_kinds(schema: str) -> None:
    """Refuses a vocabulary with too many kinds of requests; `schema` is one that Cedar printed.

    Raises:
        PolicyInvalid: says how many there are.
    """
    kinds = sum((who.count(",") + 1) * (what.count(",") + 1) for who, what in _APPLIES.findall(schema))
    if kinds > MAX_KINDS:
        message = f"{kinds} combinations of action, principal and resource, of {MAX_KINDS}; let actions apply to less."
        raise refusal(SCHEMA_NAME, message)


def statements(file: str, text: str) -> tuple[Statement, ...]:
    """Cuts a policy file into its policies. Comments that precede a policy are not part of it.

    Raises:
        PolicyInvalid: something follows the last `;`, or a policy is larger than Cedar can be trusted with.
    """
    found = []
    start = _skip_blank(text, 0)
    line = 1 + text.count("\n", 0, start)
    for token in _TOKEN.finditer(text, start):
        if token.group() == ";":
            found.append(Statement(file, line, text[start : token.end()]))
            _check_shape(found[-1])
            following = _skip_blank(text, token.end())
            line += text.count("\n", start, following)
            start = following
    if start < len(text):
        message = "the last policy has no end; close it with a semicolon, and each text with a quotation mark."
        raise refusal(file, message, line=line)
    return tuple(found)


def _check_shape(statement: Statement) -> None:
    def wrong(message: str) -> PolicyInvalid:
        return refusal(statement.file, message, line=statement.line)

    if len(statement.text) > MAX_STATEMENT_CHARS:
        raise wrong(f"a policy of more than {MAX_STATEMENT_CHARS} characters; make it several.")
    operations = depth = 0
    for token in _OPERATION.finditer(statement.text):
        if token["words"]:
            continue
        if token.group() in ")}]":
            depth -= 1
            continue
        operations += 1
        if token.group() in "({[":
            depth += 1
            if depth > MAX_DEPTH:
                raise wrong(f"brackets nested more than {MAX_DEPTH} deep; write it flatter, or as several policies.")
    if operations > MAX_OPERATIONS:
        raise wrong(
            f"{operations} operators and brackets; a policy may have {MAX_OPERATIONS}. Make it several policies, or "
            "compare with a list: a list may be long."
        )


def _check_schema(schema: str) -> None:
    """A vocabulary is flat. `type` would let a few lines describe a record of a million members, so it is refused."""
    meant = _NOT_MEANT.sub(_blank_out, schema)
    depth = 0
    for token in _SCHEMA_TOKEN.finditer(meant):
        line = 1 + meant.count("\n", 0, token.start())
        if token.group().startswith("type"):
            raise refusal(SCHEMA_NAME, "`type` is not supported; write the type out where it is used.", line=line)
        depth += 1 if token.group() in "({[<" else -1
        if depth > MAX_SCHEMA_DEPTH:
            raise refusal(SCHEMA_NAME, f"nested more than {MAX_SCHEMA_DEPTH} deep; make it flatter.", line=line)


def _blank_out(found: re.Match[str]) -> str:
    """Spaces in place of a comment or a text; a text without an end hides nothing."""
    return found[0] if found["endless"] is not None else re.sub(r"[^\n]", " ", found[0])


def _skip_blank(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    return match.end() if match else position

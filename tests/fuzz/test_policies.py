"""Policy files and their cases: cut, measured and refused before Cedar or anybody else sees them."""

from __future__ import annotations

import re
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from broker.policy import case_files
from broker.policy.source import MAX_DEPTH, MAX_OPERATIONS, MAX_STATEMENT_CHARS, check_limits, statements
from tests.fuzz.mutations import altered, damaged_text
from tests.fuzz.outcome import effort, holds, taken
from tests.fuzz.test_manifests import SCRAPS
from tests.policy.world import shipped_files

SOURCE = shipped_files()
FILES = sorted(SOURCE.files.values())
PIECES = st.sampled_from(
    ["permit (principal, action, resource);", "// a; b\n", '@id("a;\\"b")', '"', '\\"', "\\", ";", "\r", "\n", "(", ")",
     "[" * 30, "{", "}", " ", "é", "\x00", "when { a.b == 1 }", "&& x" * 60, "if then else", "//", "/", "x" * 3000]
)  # fmt: skip
TEXTS = st.sampled_from(FILES).flatmap(damaged_text) | st.lists(PIECES, max_size=12).map("".join)


@effort(200)
@given(TEXTS)
def test_a_file_is_cut_without_a_rest(text: str) -> None:
    """Every character is in a policy, or in the blanks and comments between; each policy is within its bounds."""
    found = taken(lambda: statements("a.cedar", text), quotes=True)
    if found is None:
        return
    rest, at = "", 0
    for statement in found:
        start = text.index(statement.text, at)
        assert statement.line == 1 + text.count("\n", 0, start)
        rest += text[at:start]
        at = start + len(statement.text)
        assert statement.text.endswith(";")
        assert len(statement.text) <= MAX_STATEMENT_CHARS
    rest += text[at:]
    assert re.fullmatch(r"(?:\s|//[^\n\r]*(?=[\n\r]|\Z))*", rest) is not None


@effort(100)
@given(
    st.sampled_from(["(", "[", "{", "!", "-", "a.", "&& a ", '"a" like ']),
    st.integers(1, 600),
    st.sampled_from(["", '"', "//\n"]),
)
def test_what_could_exhaust_a_stack_is_refused(piece: str, times: int, before: str) -> None:
    """However it is nested or chained, no more of it reaches Cedar than the bounds say."""
    text = f"permit (principal, action, resource) when {{ {before}{piece * times}true }};"
    found = taken(lambda: statements("a.cedar", text), quotes=True)
    if found:
        assert times <= (MAX_DEPTH if piece in "([{" else MAX_OPERATIONS)


NAMES = st.sampled_from(["a.cedar", "A.cedar", "../a.cedar", "a.cedar\n", ".cedar", "", "a" * 65 + ".cedar"])


@effort(100)
@given(
    damaged_text(SOURCE.schema) | st.lists(PIECES, max_size=12).map("".join), st.dictionaries(NAMES, TEXTS, max_size=3)
)
def test_limits_are_checked_without_a_fault(schema: str, files: dict[str, str]) -> None:
    """A vocabulary and files of any kind pass or are refused; names lead nowhere else."""
    if holds(lambda: check_limits(schema, files)):
        assert set(files) <= {"a.cedar"}


AGENT = {"type": "Agent", "id": "a", "attrs": {"owner": "o", "ceiling": ["openai/m"]}, "parents": ['Team::"t"']}
ENROL = {"principal": 'Agent::"a"', "action": "enrol", "resource": {"type": "M", "id": "m"}, "context": {"x": 1}}
CALL = {"principal": 'A::"a"', "action": "c", "resource": 'M::"m"'}
CASES: dict[str, Any] = {
    "entities": [AGENT],
    "cases": [
        {
            "name": "one", "expect": "permit", "reasons": ["inside-ceiling"], "limited_by": "no-policy",
            "request": ENROL, "enrols": {"agent": "a", "owner": "o", "ceiling": ["openai/m"]},
        },
        {"name": "two", "expect": "deny", "reasons": [], "request": CALL},
    ],
}  # fmt: skip


@effort(150)
@given(st.data())
def test_cases_are_read_or_refused_with_their_file(data: st.DataObject) -> None:
    """What is read has the types that it says; anything else is refused, tags and aliases too."""
    text = str(yaml.safe_dump(data.draw(altered(CASES)), sort_keys=False))
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(SCRAPS) + text[at:]
    found = taken(lambda: case_files.parse({"a.yaml": text}), quotes=True)
    for case in found or ():
        assert case.name
        assert all(isinstance(reason, str) for reason in case.reasons)
        assert all(isinstance(part, str) for entity in case.entities for part in entity.uid)
        assert all(
            isinstance(part, str) for part in (*case.request.principal, case.request.action, *case.request.resource)
        )

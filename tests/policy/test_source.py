"""Cutting policy files into policies, with lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import PolicyInvalid
from broker.policy.source import statements

PIECE = st.sampled_from(
    [
        "// permit (principal, action, resource);\n",
        "\n",
        "  ",
        '@id("a;b") permit (principal, action, resource) when { "//;\\";" == "x" };',
        '@title("// no comment") forbid (principal, action, resource); // said "so;\n',
        "permit (principal, // ; \n action, resource);",
    ]
)


@given(st.lists(PIECE))
def test_every_policy_is_found_where_it_stands(pieces: list[str]) -> None:
    """Semicolons in texts and comments end nothing; each policy begins on the line that is reported."""
    text = "".join(pieces)
    found = statements("f.cedar", text)
    assert len(found) == sum("resource)" in piece and not piece.startswith("//") for piece in pieces)
    for statement in found:
        assert statement.text.endswith(";")
        assert text.split("\n", statement.line - 1)[-1].lstrip(" ").find(statement.text.split("\n")[0]) >= 0


@pytest.mark.parametrize("text", ["", "  \n", "// only words; and more"])
def test_a_file_may_hold_no_policy(text: str) -> None:
    """A file of comments is fine."""
    assert statements("f.cedar", text) == ()


@pytest.mark.parametrize("rest", ["permit (principal, action, resource)", '"', "x"])
def test_an_unfinished_policy_is_refused(rest: str) -> None:
    """What follows the last semicolon is not dropped."""
    with pytest.raises(PolicyInvalid, match=r"f\.cedar, line 2: .*semicolon"):
        statements("f.cedar", "permit (principal, action, resource);\n" + rest)

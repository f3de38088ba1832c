"""Cutting policy files into policies, with lines."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import PolicyInvalid
from broker.policy import engine
from broker.policy.source import (
    MAX_DEPTH,
    MAX_KINDS,
    MAX_OPERATIONS,
    MAX_SCHEMA_DEPTH,
    MAX_STATEMENT_CHARS,
    check_limits,
    statements,
)
from tests.policy.dangerous import FORMS, largest
from tests.policy.world import shipped_files

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


def test_a_text_without_an_end_is_read_once() -> None:
    """It reaches to the end of the file, whatever quotes it holds: nobody looks for another text from each of them."""
    with pytest.raises(PolicyInvalid, match=r"line 1: .*quotation mark"):
        statements("f.cedar", '"' + '\\"' * 50 + ";")
    with pytest.raises(PolicyInvalid, match="line 1"):
        statements("f.cedar", '"' + '\\"' * 1_000_000 + ";")


@pytest.mark.parametrize("opening", ['"', '"\\" \\"', '"x\\'])
def test_a_text_without_an_end_hides_nothing_of_a_vocabulary(opening: str) -> None:
    """What follows it is measured all the same."""
    with pytest.raises(PolicyInvalid, match="`type` is not supported"):
        check_limits(f"{opening}\ntype A = Long;", {})


@pytest.mark.parametrize("rest", ["permit (principal, action, resource)", '"', "x"])
def test_an_unfinished_policy_is_refused(rest: str) -> None:
    """What follows the last semicolon is not dropped."""
    with pytest.raises(PolicyInvalid, match=r"f\.cedar, line 2: .*semicolon"):
        statements("f.cedar", "permit (principal, action, resource);\n" + rest)


@pytest.mark.parametrize("form", FORMS)
def test_what_would_kill_the_process_is_refused(form: str) -> None:
    """Each way to nest or chain, far beyond what the stack bears: refused with file and line, before Cedar sees it."""
    with pytest.raises(PolicyInvalid, match=r"f\.cedar, line 3: .*(operators|nested|characters)"):
        engine.compile(shipped_files().schema, {"f.cedar": "\n\n" + FORMS[form](2_000)})


def test_what_is_taken_is_far_from_killing() -> None:
    """The largest accepted policy of every form goes all the way through Cedar, on a quarter of a usual stack.

    In a process of its own: if it does not hold, there is no exception to catch.
    """
    command = [sys.executable, "-m", "tests.policy.dangerous"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, [*FORMS, "done"]), done.stderr


@pytest.mark.parametrize("form", FORMS)
def test_a_policy_may_be_as_large_as_the_limits(form: str) -> None:
    """The limits are those that the text names, and not less."""
    assert statements("f.cedar", largest(form))


def test_a_list_may_be_long() -> None:
    """A thousand names in a list are one comparison."""
    names = ", ".join(f'Endpoint::"e-{n}"' for n in range(800))
    text = f'@id("x") permit (principal, action == Action::"call", resource) when {{ resource in [{names}] }};'
    assert len(text) < MAX_STATEMENT_CHARS
    engine.compile(shipped_files().schema, {"f.cedar": text})
    with pytest.raises(PolicyInvalid, match="characters"):
        statements("f.cedar", text.replace(" };", " " * MAX_STATEMENT_CHARS + "};"))


def test_a_carriage_return_ends_a_comment() -> None:
    """As it does to Cedar: nothing hides behind one, neither a policy nor what it is made of."""
    assert len(statements("f.cedar", "// x\rpermit (principal, action, resource);")) == 1
    hidden = "// \r && true" * (MAX_OPERATIONS + 1)
    with pytest.raises(PolicyInvalid, match="operators"):
        statements("f.cedar", f"permit (principal, action, resource) when {{ true {hidden} }};")
    with pytest.raises(PolicyInvalid, match="nested"):
        statements("f.cedar", "permit (principal, action, resource) when " + "// \r(" * (MAX_DEPTH + 1) + ";")


TAIL = "entity U; action a appliesTo { principal: [U], resource: [U] };"


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        (f"entity A {{ x: {'Set<' * MAX_SCHEMA_DEPTH}Long{'>' * MAX_SCHEMA_DEPTH} }};", "nested"),
        (f"entity A {{ x: {'{a: ' * 400}Long{'}' * 400} }};", "nested"),
        ("// type\n  type T = {a: Long};", "line 2"),
        ("type // why\r T = Long;", "`type` is not supported"),
        (
            f"entity {','.join(f'E{n}' for n in range(20))};"
            f"action b appliesTo {{ principal: [{','.join(f'E{n}' for n in range(20))}],"
            f"resource: [{','.join(f'E{n}' for n in range(20))}] }};",
            f"401 combinations .* of {MAX_KINDS}",
        ),
    ],
)
def test_a_vocabulary_is_flat_and_small(schema: str, complaint: str) -> None:
    """Nesting costs stack, `type` multiplies what is written, and each kind of request multiplies validation."""
    with pytest.raises(PolicyInvalid, match=rf"schema\.cedarschema.*{complaint}"):
        engine.compile(schema + TAIL, {})


def test_a_vocabulary_may_speak_of_types() -> None:
    """As the name of an attribute, in a comment and in a text."""
    schema = '// type A = B;\nentity type { type: String, "type T = x": Long, other: Set<String> };'
    assert engine.compile(schema + TAIL, {}).actions == ("a",)

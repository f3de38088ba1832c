"""How things are shown: differences, tables, times, and nothing that a terminal would obey."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from broker.cli import differences, output, policy_folder, watch
from broker.cli.alarms import Alarm
from broker.errors import ConfigurationError
from broker.policy.shipped import PolicyFiles


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (None, {"a": "x", "b": "", "c": []}, ["+ a: x"]),
        ({"a": "x", "b": 1}, {"a": "y", "b": 1}, ["- a: x", "+ a: y"]),
        ({"a": ["p", "q"]}, {"a": ["q", "r"]}, ["- a: p", "+ a: r"]),
        ({"a": ["p", "q"]}, {"a": ["q", "p"]}, ['- a: ["p","q"]', '+ a: ["q","p"]']),
        ({"a": "x"}, {"a": ""}, ["- a: x", '+ a: ""']),
        ({"a": True}, {"a": False}, ["- a: true", "+ a: false"]),
        ({"a": "x"}, {"a": "x", "b": "y"}, ["+ b: y"]),
        ("one\ntwo\n", "one\n2\n", ["@@ -1,2 +1,2 @@", " one", "-two", "+2"]),
        (None, "one\n", ["@@ -0,0 +1 @@", "+one"]),
        ("one\n", None, ["@@ -1 +0,0 @@", "-one"]),
    ],
)
def test_a_difference_is_shown_where_it_is(before: object, after: object, lines: list[str]) -> None:
    """Members that stay are left out; lists are compared entry by entry, texts line by line."""
    assert list(differences.lines(before, after)) == lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – text", "plain – text"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\rb\x9bc", "a\\rb\\x9bc"),
        ("a\u202eb", "a\\u202eb"),
        ("a\nb", "a\nb"),
        ("\ta\ud800", "    a\\ud800"),
    ],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    """Colours, cursor movements and reversed writing that somebody else chose stay visible as what they are."""
    assert output.plain(text) == shown


def test_no_line_passes_for_another_s(capsys: pytest.CaptureFixture[str]) -> None:
    """Where a row or an alarm is a line, a name with a line's end in it is written out."""
    output.print_table(("name", "kind"), [("a\n41  permit", "x")], empty="none")
    assert capsys.readouterr().out.splitlines()[1:] == ["a\\n41  permit  x"]
    watch._print(Alarm("event", "one\n2027-01-15 event: two\x9b2J"), 0, json=False)
    assert capsys.readouterr().out == "1970-01-01T00:00:00Z event: one\\n2027-01-15 event: two\\x9b2J\n"


def test_json_holds_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    """Controls of both sets and reversed writing are escaped in every string and name; a program reads the same."""
    hostile = {"a\x9b\x1b]0;x\x07": ["\x85\x7f\u202e\u2066", "名前"]}
    output.print_json(hostile)
    output.print_json_items("items", [hostile], lambda: hostile)
    watch._print(Alarm("event", "\x9b2J", {"more": hostile}), 0, json=True)
    said = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in said)
    assert json.loads(said[: said.index("}\n") + 2]) == hostile
    assert "名前" in said


def test_a_row_stays_on_its_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """However long it is: nothing is folded or cut where a program reads."""
    output.print_table(("name", "hash"), [("a", "f" * 300), ("b", ["x", "y"])], empty="none")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["a     " + "f" * 300, "b     x, y"]


def test_an_empty_table_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody who sees nothing wonders whether it worked."""
    output.print_table(("name",), [], empty="There is nothing.")
    assert capsys.readouterr().out == "There is nothing.\n"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_streamed_json_is_one_document(capsys: pytest.CaptureFixture[str], count: int) -> None:
    """Whether there are no items, one or several."""
    output.print_json_items("items", ({"n": n} for n in range(count)), lambda: {"next": None})
    told = json.loads(capsys.readouterr().out)
    assert told == {"items": [{"n": n} for n in range(count)], "next": None}


@pytest.mark.parametrize(("terminal", "json"), [(True, False), (True, True), (False, False)])
def test_a_bar_is_for_people_at_a_terminal(monkeypatch: pytest.MonkeyPatch, terminal: bool, json: bool) -> None:
    """Never in a file, and never beside JSON."""
    buffer = StringIO()
    monkeypatch.setattr(output, "err", Console(file=buffer, force_terminal=terminal))
    with output.progress("Records", 2, json=json) as done:
        done(1)
    assert ("Records" in buffer.getvalue()) is (terminal and not json)


def test_moments_are_utc_in_iso_8601() -> None:
    """Whatever the machine's own zone is."""
    assert output.utc(1_800_000_000.5) == "2027-01-15T08:00:00.500Z"


@pytest.mark.parametrize("name", ["../escaped.cedar", "/etc/x.cedar", ".hidden.cedar", "a.txt", "sub/b.cedar"])
def test_a_set_is_not_written_outside_its_folder(tmp_path: Path, name: str) -> None:
    """File names come from the broker, and it may be somebody else's; nothing at all is written then."""
    folder = tmp_path / "new"
    for source in (PolicyFiles("", {name: ""}, {}), PolicyFiles("", {"ok.cedar": ""}, {name: ""})):
        with pytest.raises(ConfigurationError):
            policy_folder.write(folder, source)
    assert list(tmp_path.iterdir()) == []

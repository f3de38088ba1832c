"""The trail on the terminal: search, records, and the checkpoint that an auditor keeps."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.cli import record_view
from broker.cli.moments import moment
from broker.formats import checkpoint
from broker.formats.checkpoint import Checkpoint
from broker.formats.note import NoteSigner
from broker.keys import load_private_pem
from tests.cli.running import BrokerProcess, Person


def test_records_are_found_newest_first(admin: Person) -> None:
    """One line each: index, time in UTC, agent, kind, outcome, what, why."""
    lines = admin.ok("audit", "search", "--limit", "3").splitlines()
    indices = [int(line.split()[0]) for line in lines[1:]]
    assert indices == sorted(indices, reverse=True)
    assert len(indices) == 3
    assert lines[1].split()[1].endswith("Z")


def test_every_filter_narrows(admin: Person) -> None:
    """By agent, kind, outcome, time and request."""
    admin.refused("apply", "-f", "-", input="agents: {filtered: {}}\n")
    found = admin.json("audit", "search", "--kind", "ChangeRefused", "--limit", "1")["records"]
    request = found[0]["groups"]["request"]["id"]
    (again,) = admin.json("audit", "search", "--request-id", request)["records"]
    assert again["index"] == found[0]["index"]
    denied = admin.json("audit", "search", "--agent", "operator:admin", "--outcome", "deny", "--all")["records"]
    assert denied
    assert {record["groups"]["decision"]["outcome"] for record in denied} == {"deny"}
    assert admin.json("audit", "search", "--agent", "nobody")["records"] == []
    assert "No record fits" in admin.ok("audit", "search", "--model", "none/none")


def test_times_are_given_as_moments_or_as_ages(admin: Person) -> None:
    """Both bounds, UTC unless a zone is written."""
    tomorrow = (datetime.fromtimestamp(first_moment(admin), UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M")
    assert admin.json("audit", "search", "--since", tomorrow)["records"] == []
    assert admin.json("audit", "search", "--until", tomorrow + "+00:00")["records"]
    assert admin.json("audit", "search", "--since", "1d", "--limit", "1")["records"]
    assert admin.json("audit", "search", "--until", "1d")["records"] == []


def test_a_time_without_a_zone_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two auditors on two continents mean the same records."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert moment("2026-11-23T00:00") == moment("2026-11-23T00:00Z") == moment("2026-11-23T09:00+09:00")
    finally:
        monkeypatch.undo()
        time.tzset()


def first_moment(admin: Person) -> float:
    """When the broker's first record was made."""
    return float(admin.json("audit", "show", "0")["at_ms"]) / 1000


def test_paging_reads_every_record_once(admin: Person) -> None:
    """`--after` goes on where a page ended, and `--all` is all of it in one go, oldest first if asked."""
    first = admin.json("audit", "search", "--oldest-first", "--limit", "2")
    assert [record["index"] for record in first["records"]] == [0, 1]
    assert first["next"] == 1
    second = admin.json("audit", "search", "--oldest-first", "--limit", "2", "--after", "1")
    assert [record["index"] for record in second["records"]] == [2, 3]
    every = admin.json("audit", "search", "--all", "--oldest-first")
    assert [record["index"] for record in every["records"]] == list(range(len(every["records"])))
    assert every["next"] is None
    hint = admin("audit", "search", "--limit", "1").stderr
    assert "go on with --after" in hint


def test_a_record_is_shown_with_everything_it_holds(admin: Person) -> None:
    """By group, times in words; and whose claim this is."""
    started = admin.json("audit", "search", "--kind", "BrokerStarted", "--oldest-first")["records"][0]
    shown = admin.ok("audit", "show", str(started["index"]))
    assert f"Record {started['index']}: BrokerStarted" in shown
    assert started["groups"]["remedy"]["log_key"] in shown
    assert "the broker's own claim" in shown
    assert admin.json("audit", "show", str(started["index"])) == started
    assert "There is no record 999999" in admin.refused("audit", "show", "999999")


def test_a_bundle_takes_no_other_file_s_place(admin: Person, tmp_path: Path) -> None:
    """Not even that of a bundle: what somebody kept as a proof stays."""
    kept = tmp_path / "record.json"
    kept.write_text("kept")
    assert "exists already" in admin.refused("audit", "prove", "0", "-o", str(kept))
    assert kept.read_text() == "kept"


def test_what_a_change_was_about_is_named_in_few_words() -> None:
    """Three of its differences, and how many more; never the whole of them."""
    differences: list[dict[str, object]] = [
        {"section": "agents", "name": f"a{n}", "before": None, "after": {}} for n in range(5)
    ]
    shown = {"index": 1, "kind": "ChangeActivated", "agent": "operator:ada", "at_ms": 0, "withheld": [], "erased": {}}
    for count, said in ((0, "change"), (2, "agents/a0, agents/a1"), (5, "agents/a0, agents/a1, agents/a2 and 2 more")):
        groups = {"what": {"action": "change"}, "remedy": {"differences": differences[:count]}}
        assert record_view.row({**shown, "groups": groups})[5] == said


def test_the_checkpoint_is_printed_as_it_was_signed(admin: Person, broker: BrokerProcess) -> None:
    """Standard output is the note, byte for byte; whether it was verified goes to standard error."""
    result = admin("audit", "checkpoint", "--key", broker.log_key)
    assert result.exit_code == 0
    told = admin.json("audit", "checkpoint", "--key", broker.log_key)
    assert told["verified"] is True
    assert checkpoint.parse_unverified(result.stdout).origin == told["origin"]
    assert "signed by the key that you pinned" in result.stderr
    assert "not verified" in admin("audit", "checkpoint").stderr


def test_a_kept_checkpoint_is_replaced_by_one_that_continues_it(
    admin: Person, broker: BrokerProcess, tmp_path: Path
) -> None:
    """The log grew in between, and proved it."""
    kept = tmp_path / "checkpoint"
    arguments = ["audit", "checkpoint", "--key", broker.log_key, "--checkpoint-state", str(kept)]
    first = admin.json(*arguments)
    assert (first["continues"], kept.read_text()) == (None, first["note"])
    bundle = tmp_path / "r.json"  # a record after the kept checkpoint; `prove` waits until it is under one
    admin.ok("audit", "prove", str(first["size"]), "-o", str(bundle))
    second = admin.json(*arguments)
    assert second["size"] > first["size"] == second["continues"]
    assert kept.read_text() == second["note"]


def test_a_log_that_does_not_continue_the_kept_one_is_found_out(
    admin: Person, broker: BrokerProcess, tmp_path: Path
) -> None:
    """A checkpoint of another history under the log's own key: exit code 1, and the evidence is not overwritten."""
    private = load_private_pem(broker.data_dir / "keys" / "log.pem")
    signer = NoteSigner(broker.log_key.partition("+")[0], private)  # type: ignore[arg-type]  # log.pem is Ed25519
    kept = tmp_path / "checkpoint"
    for size in (1, 10**9):
        note = checkpoint.sign(Checkpoint(signer.name, size, b"\x07" * 32), signer)
        kept.write_text(note)
        complaint = admin.refused("audit", "checkpoint", "--key", broker.log_key, "--checkpoint-state", str(kept))
        assert "Keep the" in complaint
        assert kept.read_text() == note


def test_nobody_erases_by_default(admin: Person) -> None:
    """The command asks first, and the broker refuses whom no policy lets do it."""
    arguments = ["audit", "erase", "--agent", "x", "--group", "who", "--before", "365d", "--why", "test"]
    asked = admin(*arguments, input="n\n")
    assert asked.exit_code == 1
    assert "for good?" in asked.output
    assert "do not let you erase" in admin.refused(*arguments, "--yes")


def test_who_and_why_narrow_too(admin: Person) -> None:
    """By human, action, policy and owner; whoever reads is found by what reading left."""
    read = admin.json("audit", "search", "--human", "admin", "--action", "readTrail", "--limit", "1")["records"]
    assert read == [] or read[0]["kind"] == "TrailRead"
    (again,) = admin.json("audit", "search", "--human", "admin", "--action", "readTrail", "--limit", "1")["records"]
    assert again["groups"]["who"]["query"] == {"human": "admin", "action": "readTrail"}
    signed_in = admin.json("audit", "search", "--kind", "OperatorSignedIn", "--human", "admin")["records"]
    assert {record["agent"] for record in signed_in} == {"operator:admin"}
    decided = admin.json("audit", "search", "--policy", "operators-exchange", "--limit", "1")["records"]
    assert decided[0]["groups"]["decision"]["policies"] == ["operators-exchange"]
    assert admin.json("audit", "search", "--owner", "nobody")["records"] == []


def test_the_pages_of_a_search_leave_one_record(admin: Person) -> None:
    """`--all` over several pages is one search in the trail."""
    for _ in range(3):
        admin.json("audit", "search", "--all", "--oldest-first", "--request-id", "none")
    before = admin.json("audit", "search", "--action", "readTrail", "--all")["records"]
    after = admin.json("audit", "search", "--action", "readTrail", "--all")["records"]
    assert len(after) == len(before) + 1


def test_a_question_is_kept_run_and_forgotten(admin: Person) -> None:
    """`--save` keeps and runs it, `--saved` runs it again with what else is given, `saved` lists and forgets."""
    kept = admin("audit", "search", "--kind", "BrokerStarted", "--oldest-first", "--save", "starts", "--shared")
    assert kept.exit_code == 0
    assert "broker audit search --saved starts" in kept.stderr
    assert "starts" in admin.ok("audit", "saved")
    assert "kind=BrokerStarted" in admin.ok("audit", "saved")
    found = admin.json("audit", "search", "--saved", "starts", "--since", "1d")["records"]
    assert {record["kind"] for record in found} == {"BrokerStarted"}
    (changed, *_) = admin.json("audit", "search", "--kind", "SharedQueryChanged")["records"]
    assert changed["groups"]["remedy"]["name"] == "starts"
    assert admin.ok("audit", "saved", "--forget", "starts", "--shared") == "Forgot starts.\n"
    assert "No query is saved as" in admin.refused("audit", "search", "--saved", "starts")
    assert "No query is saved." in admin.ok("audit", "saved")


def test_an_age_is_not_kept(admin: Person) -> None:
    """What was a day ago today is not what it is tomorrow, so a saved query holds moments alone."""
    result = admin("audit", "search", "--since", "1d", "--save", "young")
    assert result.exit_code == 2
    assert "when you run it" in " ".join(result.stderr.split())


def test_the_schema_is_shown_as_a_table_and_as_json(admin: Person) -> None:
    """All kinds; one with its members, which may be absent; and as JSON Schema."""
    assert "TrailRead" in admin.ok("audit", "schema")
    shown = admin.ok("audit", "schema", "CallCompleted")
    assert "CallCompleted, version 1" in shown
    assert "integer or null" in shown
    document = admin.json("audit", "schema", "CallCompleted")["kinds"]["CallCompleted"]
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"

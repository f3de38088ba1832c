"""The whole log, verified from its public bytes: what holds is told, what does not is named by its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.cli import whole_log
from broker.cli.log_check import GivenRecords
from broker.cli.public_log import PublicLog
from broker.cli.whole_log import CheckedRecords
from broker.errors import ProofInvalid
from broker.formats.note import NoteVerifier
from broker.formats.tiles import TiledTree
from tests.cli.running import BrokerProcess, Person
from tests.cli.stand_in_log import StandInLog, leaf_of, made, serving


@pytest.fixture
def log() -> Iterator[StandInLog]:
    """A log of somewhat more than two tiles."""
    with serving() as found:
        found.grow(600)
        yield found


def _verify(log: StandInLog, folder: Path, *more: str) -> tuple[str, ...]:
    state, tiles = folder / "log.checkpoint", folder / "tiles"
    return (
        *("audit", "verify", "--log", "--url", log.url, "--key", log.vkey),
        *("--checkpoint-state", str(state), "--tiles", str(tiles), *more),
    )


def test_a_whole_log_is_verified_without_a_sign_in(log: StandInLog, stranger: Person, tmp_path: Path) -> None:
    """Every tile, from its address and its key alone; the checkpoint is kept, and continued by that of the next run."""
    shown = stranger.ok(*_verify(log, tmp_path))
    assert "The log holds: 600 entries of stand-in.example/log" in shown
    assert (tmp_path / "log.checkpoint").read_text() == log.note
    assert {path for path in log.asked if "/tile/0/" in path} == {
        "/log/tile/0/000", "/log/tile/0/001", "/log/tile/0/002.p/88"
    }  # fmt: skip
    log.grow(800)
    assert "It continues the 600 entries" in stranger.ok(*_verify(log, tmp_path))
    assert stranger.json(*_verify(log, tmp_path))["continues"] == 800
    assert not stranger.home.exists()


def test_only_what_is_new_is_fetched(log: StandInLog, stranger: Person, tmp_path: Path) -> None:
    """Whole tiles are in the folder once they were verified, and verified there again; a last tile has one copy."""
    stranger.ok(*_verify(log, tmp_path))
    log.grow(1100)
    log.asked.clear()
    stranger.ok(*_verify(log, tmp_path))
    assert [path for path in log.asked if path in ("/log/tile/0/000", "/log/tile/0/001")] == []
    assert {"/log/tile/0/002", "/log/tile/0/003", "/log/tile/0/004.p/76"} <= set(log.asked)
    assert sorted(path.name for path in (tmp_path / "tiles/tile/0").rglob("*") if path.is_file()) == [
        "000", "001", "002", "003", "76",
    ]  # fmt: skip


def test_a_kept_tile_that_was_damaged_is_fetched_again(log: StandInLog, stranger: Person, tmp_path: Path) -> None:
    """The folder is not trusted: what does not fit the checkpoint counts for nothing."""
    stranger.ok(*_verify(log, tmp_path))
    (tmp_path / "tiles/tile/0/001").write_bytes(bytes(8192))
    log.asked.clear()
    stranger.ok(*_verify(log, tmp_path))
    assert "/log/tile/0/001" in log.asked
    assert (tmp_path / "tiles/tile/0/001").read_bytes() == b"".join(log.leaves[256:512])


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/log/tile/0/001", "entries 256 to 511"),
        ("/log/tile/0/002.p/88", "An entry from 512 on"),
        ("/log/tile/1/000.p/2", "An entry from 512 on"),
    ],
)
def test_one_altered_bit_of_any_tile_is_found(
    log: StandInLog, stranger: Person, tmp_path: Path, path: str, said: str
) -> None:
    """Exit code 1; the text names the entries, and the kept checkpoint stays as it was."""
    right = log.answer(path)
    assert right is not None
    for place in (0, 33, len(right) - 1):
        log.altered[path] = right[:place] + bytes([right[place] ^ 1]) + right[place + 1 :]
        assert said in stranger.refused(*_verify(log, tmp_path))
    log.altered[path] = right[:-1]
    assert "instead of" in stranger.refused(*_verify(log, tmp_path))
    assert not (tmp_path / "log.checkpoint").exists()


def test_a_log_written_anew_is_caught_by_the_kept_checkpoint(log: StandInLog, stranger: Person, tmp_path: Path) -> None:
    """Signed by its own key, consistent in itself, and not the one that was kept: the first other entry is named."""
    stranger.ok(*_verify(log, tmp_path))
    kept = (tmp_path / "log.checkpoint").read_text()
    for altered in (300, 590):
        log.leaves[altered] = leaf_of(made("agent-x", 1))
        log.grow(700)
        said = stranger.refused(*_verify(log, tmp_path))
        assert f"does not continue the 600 of the checkpoint that you kept: entry {altered} is another one now" in said
        log.leaves[altered] = leaf_of(log.records[altered])
    assert (tmp_path / "log.checkpoint").read_text() == kept


def test_a_log_that_shrank_is_caught(log: StandInLog, stranger: Person, tmp_path: Path) -> None:
    """With both sizes."""
    stranger.ok(*_verify(log, tmp_path))
    del log.leaves[400:]
    log.sign()
    assert "shrank from 600 to 400" in stranger.refused(*_verify(log, tmp_path))


def test_a_log_must_continue_the_tree_of_a_succession(log: StandInLog, stranger: Person, tmp_path: Path) -> None:
    """A key that took over at one tree, and signs another one, is found without any kept checkpoint."""
    new = log.replace_key()
    log.grow(700)
    told = stranger.json(*_verify(log, tmp_path))
    assert told["replaced_by"] == new
    (tmp_path / "log.checkpoint").unlink()
    log.leaves[5] = leaf_of(made("agent-x", 1))
    log.sign()
    assert "does not continue the 600 of the statement by which a key of the log was followed" in stranger.refused(
        *_verify(log, tmp_path)
    )


def test_the_records_of_a_broker_are_verified(admin: Person, broker: BrokerProcess, tmp_path: Path) -> None:
    """Over HTTP against a real broker: all records, and a range of them, each in the tree that was verified."""
    arguments = ("audit", "verify", "--log", "--key", broker.log_key)
    told = admin.json(*arguments, "--records", "0:")
    assert told["verified"] is True
    assert told["records"] == [0, told["size"]]
    assert "Records 1 to 2 are those of the log" in admin.ok(*arguments, "--records", "1:3")
    assert "There are no records" in admin.refused(*arguments, "--records", "3:999999999")
    assert admin(*arguments, "--records", "x").exit_code == 2


def test_the_checkpoint_needs_no_sign_in(broker: BrokerProcess, stranger: Person, tmp_path: Path) -> None:
    """Only public bytes are asked for, so an address is enough."""
    arguments = ("audit", "checkpoint", "--key", broker.log_key, "--url", broker.issuer)
    state = ("--checkpoint-state", str(tmp_path / "kept"))
    first = stranger.json(*arguments, *state)
    assert stranger.json(*arguments, *state)["continues"] == first["size"]
    assert "Not signed in" in stranger.refused("audit", "checkpoint", "--key", broker.log_key)
    assert "is no address" in stranger.refused("audit", "checkpoint", "--url", "ftp://x")
    assert "No answer" in stranger.refused("audit", "checkpoint", "--url", "http://127.0.0.1:1")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--key", "k"),
        ("--log",),
        ("--log", "--key", "k", "README.md"),
        ("README.md", "--key", "k", "--records", "0:"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(stranger: Person, arguments: tuple[str, ...]) -> None:
    """Files or the log, and a key always."""
    assert stranger("audit", "verify", *arguments).exit_code == 2


def _alter(log: StandInLog, how: str) -> None:
    records = log.records
    if how == "entry":
        records[9] = {**made("agent-9", 7), "index": 9}
    elif how == "group":
        records[9]["groups"]["what"]["content"] = "{}"
    elif how == "salt":
        records[9]["groups"]["what"]["salt"] = records[9]["groups"]["who"]["salt"]
    elif how == "commitments":
        records[9]["commitments"] = records[9]["commitments"][:-4] + "AAA="
    elif how == "dropped":
        del records[9]
    elif how == "inserted":
        records.insert(9, {**made("agent-3", 2), "index": 9})
    elif how == "reordered":
        records[9], records[10] = {**records[10], "index": 9}, {**records[9], "index": 10}
    elif how == "shape":
        records[9] = {"index": 9, "entry": 5}
    elif how == "character":
        records[9]["groups"]["what"]["content"] = "\ud800"  # as JSON may say it
    elif how == "withheld":
        records[9]["withheld"] = 5
    else:
        del records[9:]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("entry", "Record 9: it is not the one in the tree"),
        ("group", 'Record 9: The group "what"'),
        ("salt", 'Record 9: The group "what"'),
        ("commitments", "Record 9: The commitments"),
        ("dropped", "Record 9: it is missing"),
        ("inserted", "Record 9: it is not the one in the tree"),
        ("reordered", "Record 9: it is not the one in the tree"),
        ("shape", "Record 9: it has another shape"),
        ("character", "Record 9: it has another shape"),
        ("withheld", "Record 9: it has another shape"),
        ("truncated", "gives no record 9"),
    ],
)
def test_a_record_that_is_not_the_trees_is_named(log: StandInLog, how: str, said: str) -> None:
    """Whatever is done to what the broker gives an auditor, the index is told; a withheld group alone is none of it."""
    _alter(log, how)
    with PublicLog(log.url) as public:
        tree = whole_log.verified(public, NoteVerifier.parse(log.vkey), None).tree
        with pytest.raises(ProofInvalid, match=said):
            whole_log.check_records(tree, 3, 20, log.pages(3, 20), lambda _: None, log.erasures)


def _checked(log: StandInLog, start: int, end: int) -> CheckedRecords:
    with PublicLog(log.url) as public:
        tree = whole_log.verified(public, NoteVerifier.parse(log.vkey), None).tree
        return whole_log.check_records(tree, start, end, log.pages(start, end), lambda _: None, log.erasures)


@pytest.mark.parametrize("number", [4, 2])
def test_a_gap_in_an_agents_numbers_is_named(number: int) -> None:
    """A record that was never put into the tree, or twice, shows in the numbers although every proof holds."""
    with serving() as log:
        for seq in (1, 2, number):
            log.add(made("agent-1", seq))
        log.sign()
        with pytest.raises(ProofInvalid, match=rf"Record 2 has the number {number}.*one before has 2"):
            _checked(log, 0, 3)


def test_the_first_number_is_one() -> None:
    """From the first record on; in a range from the middle an agent may come with any."""
    with serving() as log:
        log.add(made("agent-1", 1))
        log.add(made("agent-2", 2))
        log.sign()
        with pytest.raises(ProofInvalid, match="Record 1 has the number 2"):
            _checked(log, 0, 2)
        assert _checked(log, 1, 2).agents == 1


def test_pages_end_where_the_broker_gives_no_more() -> None:
    """An answer without records asks no further."""

    class Answers:
        def __init__(self, *answers: object) -> None:
            self.left = list(answers)

        def get(self, _path: str, _shape: object, **_parameters: object) -> object:
            return self.left.pop(0)

    api: Any = Answers({"entries": [1, 2]}, {"entries": []})
    assert list(GivenRecords(api).pages(0, 5)) == [[1, 2]]


def test_the_tree_gives_every_older_root(log: StandInLog) -> None:
    """Around the edges of tiles, and only up to its own size."""
    from broker.formats import checkpoint, merkle

    with PublicLog(log.url) as public:
        tree = TiledTree(checkpoint.parse_unverified(log.note), public)
        for size in (0, 1, 2, 255, 256, 257, 511, 512, 513, 599, 600):
            assert tree.root_at(size) == merkle.root_of(log.leaves[:size])
        with pytest.raises(ProofInvalid, match="has 600 entries"):
            tree.root_at(601)


def test_a_checkpoint_that_nobody_verified_is_shown_and_not_obeyed(log: StandInLog, stranger: Person) -> None:
    """Without a key it may be anybody's text: what a terminal would act on is written out, and JSON says it escaped."""
    log.note = log.note.replace("\n\n", "\nmore \x9b2J\u202e\n\n", 1)
    said = stranger("audit", "checkpoint", "--url", log.url)
    assert said.exit_code == 0, said.output
    assert "more \\x9b2J\\u202e\n" in said.stdout
    assert all(c.isprintable() or c == "\n" for c in said.output)
    told = stranger("audit", "checkpoint", "--url", log.url, "--json").stdout
    assert all(c.isprintable() or c == "\n" for c in told)

"""`broker audit export`: files that are whole, cursors that go on whatever happens, and formats that others read."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import httpx2
import pyarrow.parquet
import pytest
import pytest_asyncio

from broker.audit import export
from broker.audit.events import Kind
from broker.audit.log import RecordRow, Step
from broker.cli import parquet
from broker.cli.export_files import CursorState, PartialFile
from broker.db.engine import execute, insert_rows, writing
from broker.errors import ProofInvalid
from broker.formats import merkle
from broker.formats.merkle import leaf_hash
from broker.formats.note import decode_base64
from broker.formats.record import GROUPS
from tests.audit.logs import event
from tests.audit.ocsf_schemas import faults
from tests.build import Running, running
from tests.cli.running import Person

PAGE = 10
COLUMNS = tuple(RecordRow.model_fields)


class Auditor:
    """A person at a command line in front of a broker of this process."""

    def __init__(self, run: Running, person: Person, folder: Path) -> None:
        self.run = run
        self._person = person
        self.folder = folder

    async def __call__(self, *arguments: str, exit_code: int = 0) -> Any:
        """Runs `broker audit export ARGUMENTS`."""
        with suppress(ProofInvalid):  # a log that is not whole is not signed any further
            await asyncio.to_thread(self.run.broker.tree.integrate)
        result = await asyncio.to_thread(self._person, "audit", "export", *arguments)
        assert result.exit_code == exit_code, result.output
        return result

    async def told(self, *arguments: str, exit_code: int = 0) -> dict[str, Any]:
        """Runs it with `--json`."""
        found: dict[str, Any] = json.loads((await self(*arguments, "--json", exit_code=exit_code)).stdout)
        return found

    async def grow(self, count: int, **groups: Any) -> None:
        """More records in the log."""
        for start in range(0, count, 7):
            events = (event(f"a{n % 3}", Kind.CALL_ADMITTED, **groups) for n in range(start, min(start + 7, count)))
            await self.run.broker.audit.record(Step(tuple(events)))

    async def remove(self, index: int) -> tuple[Any, ...]:
        """Removes a record from under the checkpoint, as somebody with the database could; gives its row."""
        await asyncio.to_thread(self.run.broker.tree.integrate)
        with writing(self.run.broker.engine) as connection:
            row = execute(connection, f"SELECT {', '.join(COLUMNS)} FROM records WHERE idx = ?", (index,)).one()
            execute(connection, "DELETE FROM records WHERE idx = ?", (index,))
        return tuple(row)

    async def bring_back(self, row: tuple[Any, ...]) -> None:
        """Puts a removed record back."""
        with writing(self.run.broker.engine) as connection:
            insert_rows(connection, "records", COLUMNS, [row])

    def file(self, name: str) -> str:
        """The path of a file."""
        return str(self.folder / name)

    def indices(self, *names: str) -> list[int]:
        """The indices of the records in files of JSON Lines."""
        return [each["index"] for name in names for each in lines(self.folder / name)]


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON Lines."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def kept_in(state: Path) -> str:
    """The cursor in the file of `--cursor-state`."""
    return str(json.loads(state.read_bytes())["cursor"])


@pytest_asyncio.fixture
async def auditor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Auditor]:
    """An auditor signed in at a broker whose pages are small, with 35 records or more."""
    monkeypatch.setattr(export, "PAGE", PAGE)
    async with running(tmp_path) as run:
        person = Person(tmp_path / "home")
        await asyncio.to_thread(person.ok, "login", await run.broker.sign_in.link("admin"))
        run.whole_records = False
        found = Auditor(run, person, tmp_path)
        await found.grow(
            30, what={"action": "call", "model": "e/m", "note": "\u2028 a\nb \x85"}, for_whom={"owner": "x"}
        )
        yield found


async def test_standard_output_is_lines_of_records(auditor: Auditor) -> None:
    """Every record once, in order, and nothing else; how to go on is said beside it."""
    result = await auditor()
    found = [json.loads(line) for line in result.stdout_bytes.splitlines()]
    assert [each["index"] for each in found] == list(range(len(found)))
    assert len(found) >= 35
    assert f"--after {len(found)}:{len(found)}:" in result.stderr


async def test_exports_follow_each_other(auditor: Auditor) -> None:
    """By the cursor that is printed, and by the one that is kept; together they are the log, under its root."""
    first = await auditor.told("-o", auditor.file("1"))
    await auditor.grow(25)
    second = await auditor.told("-o", auditor.file("2"), "--after", first["cursor"])
    state = auditor.file("state")
    for name in ("3", "4"):
        await auditor("-o", auditor.file(name), "--cursor-state", state)
        await auditor.grow(25)
    assert auditor.indices("1", "2") == list(range(first["records"] + second["records"]))
    kept = auditor.indices("3", "4")
    assert kept == list(range(len(kept)))
    leaves = [leaf_hash(decode_base64(each["entry"])) for name in "34" for each in lines(auditor.folder / name)]
    cursor = kept_in(auditor.folder / "state")
    assert cursor == f"{len(leaves)}:{len(leaves)}:{merkle.root_of(leaves).hex()}"


async def test_a_file_is_its_owners_and_never_overwritten(auditor: Auditor) -> None:
    """Nothing partial stays beside it."""
    await auditor("-o", auditor.file("out"))
    path = auditor.folder / "out"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    result = await auditor("-o", auditor.file("out"), exit_code=1)
    assert "is there already" in result.stderr
    assert path.read_bytes() == before
    assert not list(auditor.folder.glob("*.partial"))


async def test_an_export_of_nothing_makes_no_file(auditor: Auditor) -> None:
    """The cursor goes on all the same, past what a filter left out."""
    told = await auditor.told("-o", auditor.file("out"), "--agent", "nobody")
    assert (told["records"], told["file"]) == (0, None)
    assert int(told["cursor"].partition(":")[0]) >= 35
    assert not (auditor.folder / "out").exists()


async def test_filters_narrow_an_export(auditor: Auditor) -> None:
    """As they do a search; running numbers of others are no gap."""
    await auditor("-o", auditor.file("out"), "--agent", "a1", "--kind", "CallAdmitted", "--model", "e/m")
    assert {each["agent"] for each in lines(auditor.folder / "out")} == {"a1"}
    assert len(auditor.indices("out")) == 10


async def test_a_gap_ends_the_export_behind_what_is_whole(auditor: Auditor) -> None:
    """Exit code 1, the place, a whole file of what came before, and a kept cursor that stands before the gap."""
    row = await auditor.remove(23)
    told = await auditor.told("-o", auditor.file("out"), "--cursor-state", auditor.file("state"), exit_code=1)
    assert told["error"] == "gap"
    assert "Record 23 is missing" in told["detail"]
    assert auditor.indices("out") == list(range(23))
    assert kept_in(auditor.folder / "state").startswith("23:")
    again = await auditor.told("-o", auditor.file("again"), "--cursor-state", auditor.file("state"), exit_code=1)
    assert "rows were removed" in again["detail"]
    assert not (auditor.folder / "again").exists()
    await auditor.bring_back(row)
    await auditor("-o", auditor.file("rest"), "--cursor-state", auditor.file("state"))
    found = auditor.indices("out", "rest")
    assert found == list(range(len(found)))


class CutConnection(httpx2.SyncByteStream):
    """An answer whose connection is cut, or whose bytes are lost, behind the first pages."""

    def __init__(self, stream: Any, after: int, error: Exception | None) -> None:
        self._stream = stream
        self._after = after
        self._error = error

    def __iter__(self) -> Iterator[bytes]:
        left = self._after
        for part in self._stream:
            yield part[:left]
            left -= len(part)
            if left <= 0:
                break
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._stream.close()


@pytest.mark.parametrize("error", [httpx2.RemoteProtocolError("cut"), None], ids=["cut", "lost"])
async def test_a_connection_that_breaks_off_leaves_a_whole_file(
    auditor: Auditor, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """Whole pages alone are kept; the next run with the kept cursor brings the rest, and nothing twice."""
    send = httpx2.HTTPTransport.handle_request
    whole = len((await auditor()).stdout_bytes)

    def cut(self: httpx2.HTTPTransport, request: httpx2.Request) -> httpx2.Response:
        answer = send(self, request)
        if request.url.path.endswith("/audit/export"):
            answer.stream = CutConnection(answer.stream, whole * 2 // 3, error)
        return answer

    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", cut)
    state = auditor.file("state")
    result = await auditor("-o", auditor.file("1"), "--cursor-state", state, exit_code=1)
    done = auditor.indices("1")
    assert len(done) % PAGE == 0
    assert done
    assert f"{len(done)} records" in result.stderr
    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", send)
    await auditor("-o", auditor.file("2"), "--cursor-state", state)
    assert auditor.indices("1", "2") == list(range(len(auditor.indices("1", "2"))))


class LosesALine(httpx2.SyncByteStream):
    """An answer that lacks its eighteenth line, and is otherwise well."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        whole = b"".join(self._stream).splitlines(keepends=True)
        yield b"".join(whole[:17] + whole[18:])

    def close(self) -> None:
        self._stream.close()


async def test_the_command_does_not_take_the_brokers_word(auditor: Auditor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that the broker, or somebody on the way, leaves out is missed on this side too."""
    send = httpx2.HTTPTransport.handle_request

    def lose(self: httpx2.HTTPTransport, request: httpx2.Request) -> httpx2.Response:
        answer = send(self, request)
        if request.url.path.endswith("/audit/export"):
            answer.stream = LosesALine(answer.stream)
        return answer

    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", lose)
    told = await auditor.told("-o", auditor.file("out"), exit_code=1)
    assert told["error"] == "gap"
    assert "Record 16 is missing" in told["detail"]
    assert auditor.indices("out") == list(range(PAGE))


class Killed(BaseException):
    """The process ended here."""


async def _killed_at(auditor: Auditor, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """An export of new records into the file 1 that ends at a step of its end."""
    owner, name = {
        "store": (PartialFile, "store"),
        "expect": (CursorState, "expect"),
        "keep": (PartialFile, "keep"),
        "state": (CursorState, "keep"),
    }[line]

    def die(*_: Any) -> None:
        raise Killed

    state = auditor.file("state")
    await auditor("-o", auditor.file("0"), "--cursor-state", state)
    await auditor.grow(12)
    with monkeypatch.context() as dying:
        dying.setattr(owner, name, die)
        dying.setattr(PartialFile, "drop", lambda self: self.file.close())
        with pytest.raises(Killed):
            await auditor("-o", auditor.file("1"), "--cursor-state", state)
    assert (auditor.folder / "1").exists() == (line == "state")
    await auditor.grow(12)


@pytest.mark.parametrize("line", ["store", "expect", "keep", "state"])
async def test_a_run_that_is_killed_leaves_no_doubt(
    auditor: Auditor, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """Between any two steps of the end: the next run brings each record once."""
    await _killed_at(auditor, monkeypatch, line)
    await auditor("-o", auditor.file("2"), "--cursor-state", auditor.file("state"))
    found = auditor.indices("0", *(["1"] if line == "state" else []), "2")
    assert found == list(range(len(found)))


@pytest.mark.parametrize("line", ["keep", "state"])
async def test_a_file_of_a_killed_run_that_is_gone_is_told(
    auditor: Auditor, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """Removed before it had its name, or taken away after: nothing is skipped or doubled until somebody says which."""
    await _killed_at(auditor, monkeypatch, line)
    name, state = "1" if line == "state" else "1.partial", auditor.file("state")
    (auditor.folder / name).rename(auditor.folder / "moved")
    arguments = ("-o", auditor.file("2"), "--cursor-state", state)
    said = (await auditor(*arguments, exit_code=1)).stderr
    assert "neither that nor" in said
    assert (await auditor(*arguments, exit_code=1)).stderr == said
    assert not (auditor.folder / "2").exists()
    taken, removed = re.findall(r'put (\{"cursor":"[^"]*"\})', said)
    (auditor.folder / "state").write_text(taken if line == "state" else removed)
    await auditor(*arguments)
    found = auditor.indices("0", *(["moved"] if line == "state" else []), "2")
    assert found == list(range(len(found)))


async def test_a_file_that_cannot_be_written_leaves_nothing(auditor: Auditor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in the middle: exit code 1, no file, and the cursor where it was."""
    store = PartialFile.store

    def full(self: PartialFile) -> None:
        self.file.close()
        self.partial.unlink()
        raise OSError(28, "No space left on device", str(self.partial))

    state = auditor.file("state")
    for format in ("jsonl", "parquet"):
        monkeypatch.setattr(PartialFile, "store", full)
        result = await auditor("--format", format, "-o", auditor.file("out"), "--cursor-state", state, exit_code=1)
        assert "No space left" in result.stderr
        assert "state" not in os.listdir(auditor.folder)
        monkeypatch.setattr(PartialFile, "store", store)


async def test_parquet_is_read_by_others(auditor: Auditor, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyarrow and DuckDB find what the lines hold: every column, null for a group that is not there."""
    monkeypatch.setattr(parquet, "ROWS_A_GROUP", 12)
    await auditor("--format", "jsonl", "-o", auditor.file("lines"), "--until", "2027-01-15T09:00")
    told = await auditor.told("--format", "parquet", "-o", auditor.file("out.parquet"))
    wanted = {each["index"]: each for each in lines(auditor.folder / "lines")}
    file = pyarrow.parquet.ParquetFile(auditor.file("out.parquet"))
    assert file.schema_arrow.equals(parquet.SCHEMA)
    assert file.metadata.metadata[b"broker.cursor"].decode() == told["cursor"]
    sizes = [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)]
    assert max(sizes) == 12
    assert sum(sizes) == told["records"]
    rows = {row["index"]: row for row in file.read().to_pylist()}
    assert len(rows) == told["records"]
    for index, line in wanted.items():
        row = rows[index]
        assert {name: row[name] for name in line if name not in ("at_ms", "groups", "entry")} == {
            name: value for name, value in line.items() if name not in ("at_ms", "groups", "entry")
        }
        assert row["at"] == datetime.fromtimestamp(line["at_ms"] / 1000, UTC)
        assert row["entry"] == decode_base64(line["entry"])
        assert {name: json.loads(row[name]) for name in GROUPS if row[name] is not None} == line["groups"]
    with duckdb.connect() as database:
        columns = '"index", epoch_ms("at"), kind, seq, what->>\'model\', remedy IS NULL, entry'
        other = database.execute(
            f"SELECT {columns} FROM read_parquet(?) ORDER BY 1", [auditor.file("out.parquet")]
        ).fetchall()
    assert [row[0] for row in other] == sorted(rows)
    for index, *told_of in other:
        if index in wanted:
            line = wanted[index]
            model, none = line["groups"].get("what", {}).get("model"), "remedy" not in line["groups"]
            entry = decode_base64(line["entry"])
            assert told_of == [line["at_ms"], line["kind"], line["seq"], model, none, entry]


async def test_events_of_ocsf_are_lines(auditor: Auditor) -> None:
    """Each valid, one for each record, numbered by its index."""
    result = await auditor("--format", "ocsf")
    events = [json.loads(line) for line in result.stdout_bytes.splitlines()]
    assert [each["metadata"]["sequence"] for each in events] == list(range(len(events)))
    assert [fault for each in events for fault in faults(each)] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--format", "parquet"),
        ("--cursor-state", "state"),
        ("--json",),
        ("-o", "out", "--cursor-state", "state", "--after", "1:1:00"),
        ("--format", "csv"),
        ("--since", "yesterday"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Exit code 2, before anything is asked or written."""
    person = Person(tmp_path)
    assert person("audit", "export", *arguments).exit_code == 2


async def test_a_cursor_of_another_log_is_refused(auditor: Auditor) -> None:
    """And what is no cursor, and a state file that holds none."""
    other = await auditor.told("-o", auditor.file("out"), "--after", "3:5:" + "0" * 64, exit_code=1)
    assert "restored or replaced" in other["detail"]
    assert "no cursor" in (await auditor("--after", "3", exit_code=1)).stderr
    (auditor.folder / "state").write_text("[]")
    result = await auditor("-o", auditor.file("out"), "--cursor-state", auditor.file("state"), exit_code=1)
    assert "holds no cursor" in result.stderr
    assert not (auditor.folder / "out").exists()


async def test_a_request_that_ends_is_followed_by_the_next(auditor: Auditor, monkeypatch: pytest.MonkeyPatch) -> None:
    """One export is as many requests as it takes."""
    monkeypatch.setattr(export, "PAGES_A_REQUEST", 1)
    await auditor("-o", auditor.file("out"))
    found = auditor.indices("out")
    assert found == list(range(len(found)))
    assert len(found) > 3 * PAGE

"""`broker audit package, redecide`: take evidence of a period away, and make its decisions again."""

from __future__ import annotations

import hashlib
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from broker.cli.moments import moment
from broker.cli.output import Json, err, plain, print_json, refusing, say
from broker.cli.record_filters import Agent, Since, Until
from broker.errors import ConfigurationError, Malformed

_NAME = re.compile(
    r"checkpoint|log-keys\.json|(?:records|entities)\.jsonl|index\.html|verify\.py|manifest\.(?:json|note)"
    r"|policies/[0-9a-f]{64}/(?:schema\.cedarschema|[a-z0-9_-]{1,64}\.cedar)"
)
"""Files of a package, and no others: Python would take a `json.py` beside verify.py for its own."""
_SHOWN = 20
_MAX_BYTES = 16 * 1024 * 1024
_MAX_SLICES = 4_096
_MAX_SETS = 16


def package(
    folder: Annotated[Path, typer.Argument(help="Where to write it; made for it.", metavar="DIR")],
    since: Since = "",
    until: Until = "",
    agent: Agent = "",
    zip: Annotated[bool, typer.Option("--zip", help="Leave it one file, DIR.zip.")] = False,
    json: Json = False,
) -> None:
    """Takes an evidence package away: records, proofs, policies, inputs, a page to read, and a verifier in one file.

    Example: `broker audit package november --since 2026-11-01T00:00 --until 2026-12-01T00:00`
    """
    since_ms, until_ms = (moment(text) if text else None for text in (since, until))
    with refusing(json):
        from broker.cli.api import Api

        target = folder.with_name(folder.name + ".zip") if zip else folder
        if target.exists():
            raise ConfigurationError(f"{target} exists already; name another place for the package.")
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".package-") as beside:
            file = Path(beside) / "package.zip"
            with Api() as api:
                api.save("/audit/package", file, since_ms=since_ms, until_ms=until_ms, agent=agent)
            if zip:
                file.replace(target)
            else:
                _unpack(file, Path(beside) / "package")
                (Path(beside) / "package").replace(target)
        if json:
            print_json({"package": str(target)})
            return
        say(f"Wrote {target}. It is verified without the broker, under the key that you pinned before:")
        say(f"  python -I {'verify.py' if zip else target / 'verify.py'} {target} --key log.vkey")


def redecide(
    package: Annotated[Path, typer.Argument(help="An evidence package: its folder, or ZIP file.", exists=True)],
    json: Json = False,
) -> None:
    """Makes every recorded decision of a package again, offline, and compares. Exit code 1 unless all of them agree.

    Verify the package first: this asks whether the decisions follow from the inputs, not whether the records are real.
    What was withheld, erased or never told is counted as what could not be decided.

    Example: `broker audit redecide november`
    """
    with refusing(json):
        from broker.policy.redecide import Verdict, redecide

        counts: Counter[Verdict] = Counter()
        others: list[dict[str, Any]] = []
        whys: Counter[str] = Counter()
        with _opened(package) as folder, (folder / "entities.jsonl").open("rb") as lines:
            sets, slices = _Sets(folder), _Slices(lines)
            for record in _records(folder):
                for found in redecide(_decision_of(record), sets.compiled, slices.read):
                    counts[found.verdict] += 1
                    if found.verdict is Verdict.UNDECIDED:
                        whys[found.why] += 1
                    if found.verdict is Verdict.DIFFERS and len(others) < _SHOWN:
                        others.append({"index": record["index"], "action": found.action, "why": found.why})
        held = counts[Verdict.AGREES] > 0 and not counts[Verdict.DIFFERS] and not counts[Verdict.UNDECIDED]
        if json:
            told = {verdict.name.lower(): counts[verdict] for verdict in Verdict}
            print_json({**told, "agreed": held, "differing": others, "why_undecided": dict(whys)})
        else:
            for verdict in Verdict:
                say(f"{counts[verdict]:>8}  {verdict}", "bold red" if verdict is Verdict.DIFFERS and others else "")
            for other in others:
                say(f"Record {other['index']}, {other['action']}: {other['why']}.", "red")
            for why, count in whys.most_common(_SHOWN):
                err.print(plain(f"{count} could not be decided: {why}."), markup=False)
        if not held:
            raise typer.Exit(1)


class _Sets:
    """The policy sets of a package, compiled when they are asked for; each must have the hash that names it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "policies"
        self.compiled = lru_cache(_MAX_SETS)(self._compiled)

    def _compiled(self, hash: str) -> Any:
        from broker.policy.engine import compile
        from broker.policy.source import SCHEMA_NAME

        if not re.fullmatch(r"[0-9a-f]{64}", hash) or not (self._folder / hash).is_dir():
            return None
        files = {file.name: _text(file) for file in sorted((self._folder / hash).iterdir())}
        found = compile(files.pop(SCHEMA_NAME, ""), files)
        if found.hash != hash:
            raise Malformed("its policy set is not the one that the hash names")
        return found


class _Slices:
    """The entity slices of a package, found by the digests of their lines."""

    def __init__(self, lines: BinaryIO) -> None:
        self._file = lines
        self._places: dict[bytes, int] = {}
        place = 0
        for line in self._file:
            self._places[hashlib.sha256(line.rstrip(b"\n")).digest()] = place
            place += len(line)
        self.read = lru_cache(_MAX_SLICES)(self._read)

    def _read(self, digest: str) -> Any:
        from broker.policy.decided import read_slice

        place = self._places.get(bytes.fromhex(digest))
        if place is None:
            return None
        self._file.seek(place)
        return read_slice(self._file.readline().rstrip(b"\n"))


@contextmanager
def _opened(path: Path) -> Iterator[Path]:
    """The folder of a package; a ZIP file is unpacked for as long as it is looked at."""
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory() as beside:
        _unpack(path, Path(beside) / "package")
        yield Path(beside) / "package"


def _unpack(file: Path, folder: Path) -> None:
    """Writes the files of a package; a name that no package has could be a place outside it.

    Raises:
        Malformed: it is no package.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if not _NAME.fullmatch(name):
                    raise Malformed(f"{file} is no evidence package: it holds a file {name!r}.")
            archive.extractall(folder)
    except (zipfile.BadZipFile, EOFError) as error:
        raise Malformed(f"{file} is no whole ZIP file: {error}") from error


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    from broker.formats import canonical_json

    with (folder / "records.jsonl").open("rb") as lines:
        for line in lines:
            record = canonical_json.parse(line, max_bytes=_MAX_BYTES)
            if not isinstance(record, dict):
                raise Malformed("records.jsonl holds something else than records.")
            yield record


def _decision_of(record: dict[str, Any]) -> dict[str, Any] | None:
    """The decision group of a record, {} for one that has none, None if it is not shown."""
    from broker.formats import canonical_json

    shown = record["groups"].get("decision")
    if shown is None:
        return None
    text = str(shown["content"])
    found = canonical_json.parse(text.encode(), max_bytes=_MAX_BYTES) if text else {}
    return found if isinstance(found, dict) else None


def _text(file: Path) -> str:
    data = file.read_bytes()
    if len(data) > _MAX_BYTES:
        raise Malformed(f"{file} is larger than a policy file can be.")
    return data.decode("utf-8")

"""Verifies an evidence package: a folder, or a ZIP file, that a broker's auditor was given.

    python -I verify.py PACKAGE --key log.vkey

Needs Python 3.11 or newer and the package `cryptography`, and nothing of the broker. The key comes from somewhere else
than the package: whoever made the package could have put any key into it. For the same reason take this file from
somewhere else, or read it; it is short for that.

What is checked, in this order:
1. The checkpoint is signed by the key, or by one that it leads to by statements that both keys signed.
2. The same key signed the digest of manifest.json; every file is as the manifest lists it, and there is no other.
3. Every record is in the tree of that checkpoint (RFC 6962), and what is shown of it is what it committed to.
4. What is not shown of a record was withheld, as the manifest says, or erased, as a record of an erasure says.
5. No entry of the range, and no running number of an agent in it, is left out.
6. Policies and entities have the digests under which records name them.

Exit code: 0 if all of it holds, 1 if anything does not, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import itertools
import json
import os
import re
import stat
import struct
import sys
import zipfile
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, Iterator

from broker.audit.verifier.log_proofs import (
    MAYBE,
    MOST,
    Head,
    Key,
    NotProved,
    check_shape,
    checkpoint_of,
    parted,
    reached,
    read_json,
    sha256,
)
from broker.audit.verifier.records import GROUPS, RECORD, Erased, check_record

PACKAGE = "evidence-package v1"
EVIDENCE = "evidence:"  # whose decision an enrolment is; no agent has such a name
NAME = re.compile(
    r"checkpoint|log-keys\.json|(?:records|erasures|entities)\.jsonl|index\.html|verify\.py|manifest\.(?:json|note)"
    r"|policies/[0-9a-f]{64}/(?:schema\.cedarschema|[a-z0-9_-]{1,64}\.cedar)"
)
MOST_KEYS = 256  # that followed each other
LONGEST = 64 * 1024 * 1024  # bytes of a line, or of a file that is read whole

# What JSON texts hold, as `check_shape` reads it.
SLICE = {"principal": {"type": str, "id": str}, "resource": {"type": str, "id": str}, "entities": Any, "context?": Any}
MANIFEST = {
    "format": str, "log": str, "size": int, "root": str, "made_at_ms": int, "range": [int], "records": int,
    "scope": {"since_ms": MAYBE, "until_ms": MAYBE, "agent": str},
    "withheld": [str], "files": [{"path": str, "sha256": str, "bytes": int}],
}  # fmt: skip


def plain(value: object) -> str:
    """A text that a terminal shows and does not act on."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


class Package:
    """The files of a folder or a ZIP file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir() and not path.is_file():
            raise NotProved(f"{path} is neither a folder nor a file")
        try:
            self.zip = None if path.is_dir() else zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise NotProved(
                f"{path} is no whole ZIP file: it was cut, or is no package (of one record: broker audit verify)"
            ) from error
        self.names = sorted(self.listed() if self.zip is None else self.zip.namelist())
        if len(set(self.names)) != len(self.names):
            raise NotProved("a file is in the package twice")
        if self.zip is not None:
            self.check_container(self.zip)

    def check_container(self, archive: zipfile.ZipFile) -> None:
        """Nothing stands in the ZIP file before, between or behind its files, which another program could unpack."""
        at, room = 0, 0
        with self.path.open("rb") as file:
            for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
                if not at <= info.header_offset <= at + room:
                    raise NotProved(f"the ZIP file holds something before {info.filename} that is none of its files")
                file.seek(info.header_offset + 26)
                at = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))) + info.compress_size
                room = 24  # the sizes of a file may come behind it
            file.seek(-22, os.SEEK_END)
            if not at <= archive.start_dir <= at + room or file.read(4) != b"PK\5\6":
                raise NotProved("the ZIP file holds something behind its files that is none of them")

    def listed(self) -> Iterator[str]:
        """The files of the folder; there is nothing else in it but folders."""
        for folder, folders, files in os.walk(self.path):
            for place in (Path(folder, name) for name in (*folders, *files)):
                name, mode = place.relative_to(self.path).as_posix(), place.lstat().st_mode
                if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                    raise NotProved(f"{name} is neither a file nor a folder: a package holds no links and no devices")
                if stat.S_ISREG(mode):
                    yield name

    def open(self, name: str) -> IO[bytes]:
        """A file, to be read from its beginning."""
        if name not in self.names:
            raise NotProved(f"{name} is missing")
        return (self.path / name).open("rb") if self.zip is None else self.zip.open(name)

    def lines(self, name: str) -> Iterator[tuple[str, bytes]]:
        """The lines of a file, each with what it is called."""
        with self.open(name) as file:
            for number in itertools.count(1):
                line = file.readline(LONGEST + 1)
                if len(line) > LONGEST:
                    raise NotProved(f"{name}, line {number}: longer than {LONGEST} bytes")
                if not line:
                    return
                yield f"{name}, line {number}", line

    def text(self, name: str) -> str:
        """A small file, whole."""
        with self.open(name) as file:
            data = file.read(LONGEST + 1)
        try:
            if len(data) <= LONGEST:
                return data.decode()
        except UnicodeDecodeError as error:
            raise NotProved(f"{name}: no text in UTF-8") from error
        raise NotProved(f"{name}: larger than {LONGEST} bytes")

    def digest(self, name: str) -> str:
        """The SHA-256 of a file of any size."""
        with self.open(name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # it is opened for bytes


class Findings:
    """What does not hold, and what is known of the rest."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.sets: set[str] = set()
        self.slices: dict[bytes, dict[str | None, int]] = {}  # by digest: whose decisions, and one record of each
        self.records = self.withheld = self.erased = self.untold = self.named = 0
        self.times: list[int] = []

    def note_absent(self, index: int, absent: set[str], withheld: set[str], erased: set[str]) -> None:
        """Why groups of a record are not shown: withheld, or erased; or nobody says why, which hides something."""
        self.withheld += len(absent & withheld)
        gone = (absent - withheld) & erased
        self.erased += len(gone)
        left = sorted(absent - withheld - gone)
        if "remedy" in withheld:
            self.untold += len(left)
        elif left:
            self.problems.append(f"record {index}: {', '.join(left)} are missing, and no record of an erasure says so")

    def note_named(self, index: int, decision: dict[str, Any], agent: str | None) -> None:
        """Which sets and entities a decision names, in itself and in those within it, and whose they are."""
        itself = EVIDENCE if decision.get("action") == "enrol" else agent
        for part, whose in (("", itself), ("enrolment", EVIDENCE), ("operator", agent)):
            told = decision.get(part, {}) if part else decision
            where = f"record {index}, decision{part and ', '}{part}"
            check_shape(told, {"set?": str, "entities?": str, "": Any}, where)
            for name in ("set", "entities"):
                if not re.fullmatch("|[0-9a-f]{64}", told.get(name, "")):
                    raise NotProved(f"{where}, {name}: no SHA-256 in hexadecimal: {told[name]!r:.60}")
            self.sets |= {told.get("set", "")} - {""}
            if told.get("entities"):
                self.slices.setdefault(bytes.fromhex(told["entities"]), {}).setdefault(whose, index)


def check_files(package: Package, key: Key, head: Head, found: Findings) -> Any:
    """The manifest, once it is the one that the log's key signed and every file is as it says."""
    origin, size, root = head
    data = package.text("manifest.json").encode()
    signed = key.check(package.text("manifest.note"), "manifest.note")
    digests = [base64.b64encode(each).decode() for each in (root, sha256(data))]
    if signed != "\n".join([PACKAGE, origin, str(size), *digests, ""]):
        raise NotProved("manifest.json is not the one that was signed for this checkpoint: it was altered")
    manifest = read_json(data, "manifest.json", MANIFEST)
    if [manifest[name] for name in ("format", "log", "size", "root")] != [PACKAGE, origin, size, digests[0]]:
        raise NotProved("manifest.json tells of another checkpoint than the one that is here")
    listed = {each["path"]: each["sha256"] for each in manifest["files"]}
    for name in sorted({*package.names, *listed} - {"manifest.json", "manifest.note"}):
        if name not in listed or not NAME.fullmatch(name):
            found.problems.append(f"{name} is not a file of this package")
        elif name not in package.names:
            found.problems.append(f"{name} is missing")
        elif package.digest(name) != listed[name]:
            found.problems.append(f"{name} was altered")
    return manifest


def check_records(package: Package, manifest: Any, head: Head, found: Findings) -> None:
    """Every record, and that none is left out between them."""
    _, size, root = head
    bounds, scope = manifest["range"], manifest["scope"]
    start, end, agent = bounds[0] if bounds else 0, bounds[-1] if bounds else 0, scope["agent"]
    numbers: dict[str, int] = {}
    expected, withheld = start, set(manifest["withheld"])
    if len(bounds) != 2 or not start < end <= size:
        raise NotProved("manifest.json, range: the range of the package is empty, or reaches beyond the log")
    if (scope["since_ms"] is None and start) or (scope["until_ms"] is None and end != size):
        raise NotProved("manifest.json, range: without a bound in time, it begins and ends with the log")
    erased = Erased()
    for where, line in package.lines("erasures.jsonl"):
        erased.add(read_json(line, where, RECORD), size, root)
    for where, line in package.lines("records.jsonl"):
        record = read_json(line, where, RECORD)
        entry, groups = check_record(record, size, root)
        index, tag, number, who = record["index"], entry["agent_tag"], entry["seq"], groups.get("who", {})
        if not start <= index < end or index < expected:
            raise NotProved(f"record {index} is out of order, or outside the range of the package")
        if agent and ((numbers and tag not in numbers) or (who and (who.get("agent") or "unknown") != agent)):
            found.problems.append(f"record {index} is of another agent than {agent}")
        if not agent and index != expected:
            found.problems.append(f"gap: the entries {expected} to {index - 1} are left out")
        before = numbers.get(tag, number - 1 if start else 0)
        if number != before + 1:
            found.problems.append(f"gap: before record {index}, numbers from {before + 1} are left out")
        numbers[tag], expected = number, index + 1
        found.records += 1
        found.named += bool(who)
        absent = GROUPS.keys() - groups.keys()
        found.note_absent(index, absent, withheld, erased.of(index, entry["kind"], absent))
        found.note_named(index, groups.get("decision", {}), who.get("agent"))
        if "at_ms" in groups.get("request", {}):
            found.times = [*found.times[:1], groups["request"]["at_ms"]]
    if not agent and expected != end:
        found.problems.append(f"gap: the entries {expected} to {end - 1} are left out")
    if not found.records or found.records != manifest["records"]:
        found.problems.append(f"{found.records} records are here, and the manifest counts {manifest['records']}")


def check_named(package: Package, found: Findings) -> tuple[int, int, int, int]:
    """Policies and entities, against the digests under which records name them, and whose decisions they are."""
    sets: dict[str, dict[str, str]] = {}
    for name in package.names:
        if name.startswith("policies/") and NAME.fullmatch(name):
            _, hash, file = name.split("/")
            sets.setdefault(hash, {})[file] = package.text(name)
    for hash, files in sets.items():
        whole = {"schema": files.pop("schema.cedarschema", ""), "files": files}
        text = json.dumps(whole, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        if sha256(text.encode()).hex() != hash:
            found.problems.append(f"the policy set {hash} is not the one that its hash names")
    slices = set()
    for where, line in package.lines("entities.jsonl"):
        digest = sha256(line.rstrip(b"\n"))
        slices.add(digest)
        principal = read_json(line, where, SLICE)["principal"]
        is_of = {"Agent": principal["id"], "Operator": "operator:" + principal["id"]}.get(principal["type"], EVIDENCE)
        for whose, index in found.slices.get(digest, {}).items():
            if whose is not None and whose != is_of:
                made = f"{where}: made for {principal['type']} {principal['id']}"
                found.problems.append(
                    f"record {index} is of {whose or 'nobody'}, and its decision was of another: {made}"
                )
    for one in [*(set(sets) - found.sets), *(each.hex() for each in slices - found.slices.keys())]:
        found.problems.append(f"{one} is named by no record, or was altered")
    return len(sets), len(found.sets - set(sets)), len(slices), len(found.slices.keys() - slices)


def moment(ms: object) -> str:
    """A time in words."""
    if type(ms) is not int or not 0 <= ms < 253402300800000:
        return "no bound" if ms is None else f"{ms!r:.40}, which is no time"
    return datetime.fromtimestamp(ms / 1000, timezone.utc).isoformat()


def verify(path: Path, pinned: Key) -> list[str]:
    """Verifies a package, says what it found, and gives the problems."""
    package, found = Package(path), Findings()
    note = package.text("checkpoint")
    text, signatures = parted(note, "checkpoint")
    head, signers = checkpoint_of(text), {(name, id) for name, id, _ in signatures}
    statements = read_json(package.text("log-keys.json").encode(), "log-keys.json", {"successions": [str]})
    if len(statements["successions"]) > MOST_KEYS:
        raise NotProved(f"log-keys.json: more than {MOST_KEYS} successions of keys")
    for key, began, ended in reached(pinned, statements["successions"]):
        if (key.name, key.id) in signers and began[0] <= head[1] <= ended[0]:
            break
    else:
        raise NotProved("neither the key that you gave nor one that follows from it signed the checkpoint")
    if any(size == head[1] and root not in (b"", head[2]) for size, root in (began, ended)):
        raise NotProved("a key was followed at another tree of this size: keep both, they prove two stories")
    key.check(note, "checkpoint")
    if head[0] != key.name:
        raise NotProved("the checkpoint is of another log")
    manifest = check_files(package, key, head, found)
    check_records(package, manifest, head, found)
    sets, no_sets, slices, no_slices = check_named(package, found)
    scope, (start, end) = manifest["scope"], manifest["range"]
    how = "the key that you gave" if key.text == pinned.text else f"a key that yours leads to, {key.text}"
    since, until = moment(scope["since_ms"]), moment(scope["until_ms"])
    for line in (
        f"log         {head[0]}, {head[1]} entries, signed by {how}",
        f"asked for   {scope['agent'] or 'all agents'}, since {since}, until {until}",
        f"manifest    signed by the same key; lists {len(manifest['files'])} files",
        f"records     {found.records} of the entries {start} to {end - 1}, each proved to be in the log",
        f"times       {' to '.join(map(moment, found.times)) or 'not shown'}, as the broker's clock said",
        f"not shown   {found.withheld} groups withheld, {found.erased} erased, each as a record of an erasure says",
        f"gaps        {sum(p.startswith('gap') for p in found.problems) or 'none'}",
        f"inputs      {sets} policy sets ({no_sets} not here), {slices} entity slices ({no_slices} not here)",
        *(f"not proved  {each}" for each in unproved(scope, found, ended[0])),
    ):
        print(plain(line))
    return found.problems


def unproved(scope: Any, found: Findings, followed: int) -> Iterator[str]:
    """What somebody could take for proved, and is the broker's word; the key that signed was followed at that size."""
    if followed < MOST:
        yield f"when it was signed: another key followed this one at {followed} entries, and its holder can sign still"
    if found.untold:
        yield f"that {found.untold} more groups were erased: the records of erasures are withheld too"
    if scope["since_ms"] is not None or scope["until_ms"] is not None:
        yield "that no entry before or after these is of that time: ask for its neighbours"
    if scope["agent"]:
        yield f"that {scope['agent']} has no earlier and no later numbers in that time: ask for all agents"
        if found.named < found.records:
            yield f"whose {found.records - found.named} records are: they do not show it"


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may have characters that the terminal has not
    parser = argparse.ArgumentParser(description="Verifies an evidence package under the log's key.")
    parser.add_argument("package", nargs="?", type=Path, default=Path(__file__).parent, help="its folder or ZIP file")
    parser.add_argument("--key", required=True, help="the log's key, or a file that holds it; not from the package")
    given = parser.parse_args(arguments)
    if "+" not in given.key and not Path(given.key).is_file():
        parser.error(f"--key {given.key}: there is no such file, and it is no key itself")
    try:
        problems = verify(given.package, Key(given.key if "+" in given.key else Path(given.key).read_text()))
    except Exception as error:  # noqa: BLE001  fails closed: a package that breaks this program is not proved
        problems = [str(error) if isinstance(error, NotProved) else f"cannot be read: {type(error).__name__}: {error}"]
    print(f"NOT PROVED: {len(problems)} problem(s)" if problems else "PROVED")
    for problem in problems[:20]:
        print(f"  {plain(problem)}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

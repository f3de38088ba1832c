"""Verifies an evidence package: a folder, or a ZIP file, that a broker's auditor was given.

    python -I verify.py PACKAGE --key log.vkey

Needs Python 3.11 or newer and the package `cryptography`, and nothing of the broker. The key comes from somewhere else
than the package: whoever made the package could have put any key into it. For the same reason take this file from
somewhere else, or read it; it is short for that.

What is checked, in this order:
1. The checkpoint is signed by the key, or by one that it leads to by statements that both keys signed.
2. The same key signed the digest of manifest.json; every file is as the manifest lists it, and there is no other.
3. Every record is in the tree of that checkpoint (RFC 6962), and what is shown of it is what it committed to.
4. No entry of the range, and no running number of an agent in it, is left out.
5. Policies and entities have the digests under which records name them.

Exit code: 0 if all of it holds, 1 if anything does not, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
import zipfile
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, Tuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

GROUPS = ["who", "for_whom", "what", "decision", "request", "posture", "remedy"]
SUCCESSION = "log-key-succession v1"
PACKAGE = "evidence-package v1"
MOST = 2**63
Head = Tuple[str, int, bytes]  # of a checkpoint: origin, size, root
Handover = Tuple[int, bytes]  # size and root of the tree at which one key followed another


class NotProved(Exception):
    """Something does not hold; the text says what."""


def sha256(*parts: bytes) -> bytes:
    """The digest of the parts, one after the other."""
    return hashlib.sha256(b"".join(parts)).digest()


def unbase64(text: str, length: int = 0) -> bytes:
    """Bytes from base64 in its one spelling, `length` of them if that is given."""
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as error:
        raise NotProved(f"no base64: {text!r:.60}") from error
    if base64.b64encode(data).decode() != text or (length and len(data) != length):
        raise NotProved(f"base64 of another length or spelling: {text!r:.60}")
    return data


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose members are named once each."""
    if len(dict(pairs)) != len(pairs):
        raise NotProved("a JSON text names a member twice")
    return dict(pairs)


def read_json(data: bytes) -> Any:
    """A JSON text."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except ValueError as error:
        raise NotProved(f"no JSON in UTF-8: {data!r:.60}") from error


def plain(value: object) -> str:
    """A text that a terminal shows and does not act on."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


class Key:
    """A verifier key: `name+id+base64(1 ‖ public key)`."""

    def __init__(self, text: str) -> None:
        parts = text.strip().split("+", 2)
        if len(parts) != 3:
            raise NotProved(f"no verifier key: {text!r:.80}")
        self.text, self.name = text.strip(), parts[0]
        raw = unbase64(parts[2], 33)
        self.id = sha256(self.name.encode(), b"\n", raw)[:4]
        if raw[:1] != b"\1" or self.id.hex() != parts[1]:
            raise NotProved(f"a verifier key that was altered or cut: {text!r:.80}")
        self.public = Ed25519PublicKey.from_public_bytes(raw[1:])

    def check(self, note: str) -> str:
        """The text of a note that this key signed."""
        text, signatures = parted(note)
        mine = [signature for name, id, signature in signatures if (name, id) == (self.name, self.id)]
        if not mine:
            raise NotProved(f"not signed by the key {self.text}")
        for signature in mine:
            try:
                self.public.verify(signature, text.encode())
            except InvalidSignature as error:
                raise NotProved(f"a signature of {self.name} does not verify: the text was altered") from error
        return text


def parted(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """A signed note taken apart; nothing of it is verified."""
    text, gap, lines = note.rpartition("\n\n")
    if not gap or not lines.endswith("\n"):
        raise NotProved("no signed note")
    signatures = []
    for line in lines[:-1].split("\n"):
        words = line.split(" ")
        if len(words) != 3 or words[0] != "\u2014":
            raise NotProved(f"no line of a signature: {line!r:.80}")
        raw = unbase64(words[2])
        signatures.append((words[1], raw[:4], raw[4:]))
    return text + "\n", signatures


def checkpoint_of(text: str) -> Head:
    """A checkpoint (c2sp.org/tlog-checkpoint)."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise NotProved("a checkpoint is origin, size and root, a line each")
    return lines[0], decimal(lines[1]), unbase64(lines[2], 32)


def decimal(text: str) -> int:
    """A number from 0 and below 2**63, in its one spelling."""
    if str(int(text)) != text or not 0 <= int(text) < MOST:
        raise NotProved(f"no number: {text!r:.40}")
    return int(text)


def reached(pinned: Key, statements: list[str]) -> list[tuple[Key, Handover, Handover]]:
    """The keys that follow from the pinned one, forwards and backwards, with the trees where each begins and ends.

    A statement is signed by both keys: at which size and root the new one took over from the old.
    """
    said = []
    for note in statements:
        lines = parted(note)[0].split("\n")
        if len(lines) != 7 or lines[0] != SUCCESSION or lines[-1]:
            raise NotProved("a succession of keys is of another shape")
        old, new = Key(lines[2]), Key(lines[3])
        if not lines[1] == old.name == new.name:
            raise NotProved("a succession is of keys of another log")
        old.check(note)
        new.check(note)
        said.append((old.text, new.text, (decimal(lines[4]), unbase64(lines[5], 32))))
    line, bounds = [pinned.text], [(0, b""), (MOST, b"")]
    for _ in said:
        after = {each for each in said if each[0] == line[-1]}
        before = {each for each in said if each[1] == line[0]}
        if len(after) > 1 or len(before) > 1:
            raise NotProved("a key has two successors: somebody used it to tell two stories")
        for each in after:
            line.append(each[1])
            bounds.insert(-1, each[2])
        for each in before:
            line.insert(0, each[0])
            bounds.insert(1, each[2])
    if len(set(line)) != len(line) or [size for size, _ in bounds] != sorted(size for size, _ in bounds):
        raise NotProved("the successions of keys contradict each other")
    return [(Key(text), bounds[place], bounds[place + 1]) for place, text in reversed(list(enumerate(line)))]


def root_from(index: int, size: int, leaf: bytes, path: list[bytes]) -> bytes:
    """The root of the tree of `size` in which a proof says that the leaf is."""
    if not 0 <= index < size:
        raise NotProved(f"the tree has no entry {index}")
    node, place, last = leaf, index, size - 1
    for other in path:
        if last == 0:
            raise NotProved(f"the proof of entry {index} is too long")
        if place & 1 or place == last:
            node = sha256(b"\1", other, node)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            node = sha256(b"\1", node, other)
        place, last = place >> 1, last >> 1
    if last:
        raise NotProved(f"the proof of entry {index} is too short")
    return node


def root_of(hashes: list[bytes]) -> bytes:
    """The root over the hashes of leaves."""
    if len(hashes) == 1:
        return bytes(hashes[0])
    half = 1 << ((len(hashes) - 1).bit_length() - 1)
    return sha256(b"\1", root_of(hashes[:half]), root_of(hashes[half:]))


def check_record(record: Any, size: int, root: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entry and the shown groups of one record, once it is proved."""
    index, raw = record["index"], unbase64(record["entry"])
    if root_from(index, size, sha256(b"\0", raw), [unbase64(each, 32) for each in record["proof"]]) != root:
        raise NotProved(f"record {index} is not in the log at this place: the entry or its proof was altered")
    entry = read_json(raw)
    if json.dumps(entry, sort_keys=True, separators=(",", ":")).encode() != raw or entry.get("v") != 1:
        raise NotProved(f"record {index}: the entry is of another form than this program knows")
    stated = unbase64(record["commitments"], 32 * len(GROUPS))
    commitments = [stated[at : at + 32] for at in range(0, len(stated), 32)]
    if root_of(commitments).hex() != entry["root"]:
        raise NotProved(f"record {index}: the commitments are not those of the entry")
    groups = {}
    for name, shown in record["groups"].items():
        content = shown["content"].encode()
        found = sha256(b"\0", name.encode(), b"\0", unbase64(shown["salt"], 16), content)
        if name not in GROUPS or found != commitments[GROUPS.index(name)]:
            raise NotProved(f"record {index}: the group {name} is not what the entry committed to")
        groups[name] = read_json(content) if content else {}
    return entry, groups


class Package:
    """The files of a folder or a ZIP file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.zip = None if path.is_dir() else zipfile.ZipFile(path)
        found = (p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir())
        self.names = sorted(found if self.zip is None else self.zip.namelist())
        if len(set(self.names)) != len(self.names):
            raise NotProved("a file is in the package twice")

    def open(self, name: str) -> IO[bytes]:
        """A file, to be read from its beginning."""
        if name not in self.names:
            raise NotProved(f"the file {plain(name)} is missing")
        return (self.path / name).open("rb") if self.zip is None else self.zip.open(name)

    def read(self, name: str) -> bytes:
        """A small file, whole."""
        with self.open(name) as file:
            return bytes(file.read())

    def digest(self, name: str) -> str:
        """The SHA-256 of a file of any size."""
        with self.open(name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # it is opened for bytes


class Findings:
    """What does not hold, and what is known of the rest."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.sets: set[str] = set()
        self.slices: set[bytes] = set()
        self.records = self.withheld = 0
        self.times: list[int] = []

    def note_named(self, decision: object) -> None:
        """Which sets and entities a decision group names, at any depth."""
        if isinstance(decision, dict):
            if isinstance(decision.get("set"), str) and decision["set"]:
                self.sets.add(decision["set"])
            if isinstance(decision.get("entities"), str) and decision["entities"]:
                self.slices.add(bytes.fromhex(decision["entities"]))
            for value in decision.values():
                self.note_named(value)


def check_files(package: Package, key: Key, head: Head, found: Findings) -> Any:
    """The manifest, once it is the one that the log's key signed and every file is as it says."""
    origin, size, root = head
    data = package.read("manifest.json")
    signed = key.check(package.read("manifest.note").decode())
    digests = [base64.b64encode(each).decode() for each in (root, sha256(data))]
    if signed != "\n".join([PACKAGE, origin, str(size), *digests, ""]):
        raise NotProved("manifest.json is not the one that was signed for this checkpoint: it was altered")
    manifest = read_json(data)
    listed = {each["path"]: each["sha256"] for each in manifest["files"]}
    for name in sorted({*package.names, *listed} - {"manifest.json", "manifest.note"}):
        if name not in listed:
            found.problems.append(f"{plain(name)} is not a file of this package")
        elif name not in package.names:
            found.problems.append(f"{plain(name)} is missing")
        elif package.digest(name) != listed[name]:
            found.problems.append(f"{plain(name)} was altered")
    return manifest


def check_records(package: Package, manifest: Any, head: Head, found: Findings) -> None:
    """Every record, and that none is left out between them."""
    _, size, root = head
    (start, end), agent = manifest["range"], manifest["scope"]["agent"]
    numbers: dict[str, int] = {}
    expected = start
    if not 0 <= start < end <= size:
        raise NotProved("the range of the package is empty, or reaches beyond the log")
    with package.open("records.jsonl") as lines:
        for line in lines:
            record = read_json(line)
            entry, groups = check_record(record, size, root)
            index, tag, number = record["index"], entry["agent_tag"], entry["seq"]
            if not start <= index < end or index < expected:
                raise NotProved(f"record {index} is out of order, or outside the range of the package")
            if agent and numbers and tag not in numbers:
                found.problems.append(f"record {index} is of another agent than {plain(agent)}")
            if not agent and index != expected:
                found.problems.append(f"gap: the entries {expected} to {index - 1} are left out")
            before = numbers.get(tag, number - 1 if start else 0)
            if number != before + 1:
                found.problems.append(f"gap: before record {index}, numbers from {before + 1} are left out")
            numbers[tag], expected = number, index + 1
            found.records += 1
            found.withheld += len(GROUPS) - len(groups)
            found.note_named(groups.get("decision"))
            if "at_ms" in groups.get("request", {}):
                found.times = [*found.times[:1], groups["request"]["at_ms"]]
    if not agent and expected != end:
        found.problems.append(f"gap: the entries {expected} to {end - 1} are left out")
    if not found.records or found.records != manifest["records"]:
        found.problems.append(f"{found.records} records are here, and the manifest counts {manifest['records']}")


def check_named(package: Package, found: Findings) -> tuple[int, int, int, int]:
    """Policies and entities, against the digests under which records name them."""
    sets: dict[str, dict[str, str]] = {}
    for name in package.names:
        if name.startswith("policies/"):
            _, hash, file = name.split("/", 2)
            sets.setdefault(hash, {})[file] = package.read(name).decode()
    for hash, files in sets.items():
        whole = {"schema": files.pop("schema.cedarschema", ""), "files": files}
        text = json.dumps(whole, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        if sha256(text.encode()).hex() != hash:
            found.problems.append(f"the policy set {plain(hash)} is not the one that its hash names")
    with package.open("entities.jsonl") as lines:
        slices = {sha256(line.rstrip(b"\n")) for line in lines}
    for one in [*(set(sets) - found.sets), *(each.hex() for each in slices - found.slices)]:
        found.problems.append(f"{plain(one)} is named by no record, or was altered")
    return len(sets), len(found.sets - set(sets)), len(slices), len(found.slices - slices)


def moment(ms: object) -> str:
    """A time in words."""
    return datetime.fromtimestamp(ms / 1000, timezone.utc).isoformat() if isinstance(ms, int) else "no bound"


def verify(path: Path, pinned: Key) -> list[str]:
    """Verifies a package, says what it found, and gives the problems."""
    package, found = Package(path), Findings()
    note = package.read("checkpoint").decode()
    text, signatures = parted(note)
    head, signers = checkpoint_of(text), {(name, id) for name, id, _ in signatures}
    for key, began, ended in reached(pinned, read_json(package.read("log-keys.json"))["successions"]):
        if (key.name, key.id) in signers and began[0] <= head[1] <= ended[0]:
            break
    else:
        raise NotProved("neither the key that you gave nor one that follows from it signed the checkpoint")
    if any(size == head[1] and root not in (b"", head[2]) for size, root in (began, ended)):
        raise NotProved("a key was followed at another tree of this size: keep both, they prove two stories")
    key.check(note)
    if head[0] != key.name:
        raise NotProved("the checkpoint is of another log")
    manifest = check_files(package, key, head, found)
    check_records(package, manifest, head, found)
    sets, no_sets, slices, no_slices = check_named(package, found)
    scope, (start, end) = manifest["scope"], manifest["range"]
    how = "the key that you gave" if key.text == pinned.text else f"a key that follows from yours, {key.text}"
    print(f"log         {plain(head[0])}, {head[1]} entries, signed by {how}")
    since, until = moment(scope["since_ms"]), moment(scope["until_ms"])
    print(f"asked for   {plain(scope['agent'] or 'all agents')}, since {since}, until {until}")
    print(f"manifest    signed by the same key; lists {len(manifest['files'])} files")
    print(f"records     {found.records} of the entries {start} to {end - 1}, each proved to be in the log")
    print(f"times       {' to '.join(map(moment, found.times))}, as the broker's clock said")
    print(f"not shown   {found.withheld} groups of records (withheld or erased)")
    print(f"gaps        {sum(p.startswith('gap') for p in found.problems) or 'none'}")
    print(f"inputs      {sets} policy sets ({no_sets} not here), {slices} entity slices ({no_slices} not here)")
    return found.problems


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Verifies an evidence package under the log's key.")
    parser.add_argument("package", nargs="?", type=Path, default=Path(__file__).parent, help="its folder or ZIP file")
    parser.add_argument("--key", required=True, help="the log's key, or a file that holds it; not from the package")
    given = parser.parse_args()
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

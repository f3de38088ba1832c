"""An evidence package: the records of a period with everything that an outsider needs to check them and decide again.

A ZIP file, written as it is read, so that its memory does not grow with the records:

    checkpoint            one signed checkpoint, under which everything is proved
    log-keys.json         the statements by which the log's keys followed each other
    records.jsonl         a line a record: entry, commitments, the groups that are shown with salts, inclusion proof
    erasures.jsonl        a line likewise for each record of an erasure that took a group of those
    entities.jsonl        a line an entity slice that those records name; its digest is the line's SHA-256
    policies/HASH/…       the policy sets that those records name, as they were written
    index.html            for people
    verify.py             checks all of it, with nothing of the broker
    manifest.json         scope, range, and the SHA-256 of each file
    manifest.note         the digest of the manifest and the checkpoint's root, signed by the log's key

Records, policies and entities prove themselves under the checkpoint. The manifest is signed for the rest: that the
summary is the broker's, and that the broker said these are all records of that scope.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import Engine
from sqlmodel import Session

from broker.audit import erasures, inputs, trail, verifier
from broker.audit.disclosure import Disclosure
from broker.audit.erasure import DAY_S
from broker.audit.package_page import Summary
from broker.audit.ranges import stated_groups
from broker.audit.search import bounds
from broker.audit.stored_record import at_ms
from broker.audit.tree import AuditTree
from broker.db.engine import execute, reading
from broker.errors import NotFound, Unavailable
from broker.formats import checkpoint, note

HEADER = "evidence-package v1"
"""The first line of what is signed; its second is no number, so that it never reads as a checkpoint."""

_FIRST_S, _LAST_S = 315_532_800, 4_354_819_198
"""The moments that a ZIP file has, 1980-01-01 to 2107-12-31 23:59:58; a clock may be wrong."""

_PAGE = 256
_PIECE = 64 * 1024
_BYTES = 4 * 1024 * 1024
"""Of entity slices held at once: one may be as large."""

SetOf = Callable[[Session, str], Mapping[str, str]]
"""Gives the texts of a policy set by file name, from its hash. Raises NotFound for one that was never in force."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What somebody asked for; an empty field means any. Milliseconds since the epoch, `until_ms` exclusive."""

    since_ms: int | None = None
    until_ms: int | None = None
    agent: str = ""


@dataclass(frozen=True, slots=True)
class Package:
    """A package that can be written. Made by `begin`.

    Args:
        scope: what was asked for.
        tag: the pseudonym of the agent, "" for all: it stays where the agent's name was erased.
        head: the signed checkpoint.
        start, end: the range of the log in which the records stand: from the first that was made since `since_ms` to
            the last that was made before `until_ms`. Every record of the agent in it, or every one, is in the package.
        made_at: seconds since the epoch.
        disclosure: what is shown of each record.
    """

    scope: Scope
    tag: str
    head: str
    start: int
    end: int
    made_at: float
    disclosure: Disclosure


def begin(session: Session, tree: AuditTree, scope: Scope, tag: str, disclosure: Disclosure, *, now: float) -> Package:
    """Finds the range of a package under the newest checkpoint; `tag` is the pseudonym of the scope's agent, or "".

    Raises:
        NotFound: no record of that scope is under it.
    """
    head = tree.head()
    size = checkpoint.parse_unverified(head).size
    connection = session.connection()
    first: int | None = 0
    last: int | None = size - 1
    if scope.since_ms is not None:
        # of a record whose time was erased the day is left: it may have been made since, and is in the package then
        since = scope.since_ms / 1000
        day = since // DAY_S * DAY_S
        low, _ = bounds(connection, trail.Query(since_ms=int(day * 1000)))
        statement = "SELECT idx FROM records WHERE (at >= ? OR at = ?) AND idx >= ? AND idx < ? ORDER BY idx LIMIT 1"
        first = execute(connection, statement, (since, day, low, size)).scalar()
    if scope.until_ms is not None:
        _, high = bounds(connection, trail.Query(until_ms=scope.until_ms))
        statement = "SELECT idx FROM records WHERE at < ? AND idx < ? ORDER BY idx DESC LIMIT 1"
        last = execute(connection, statement, (scope.until_ms / 1000, min(high, size))).scalar()
    if first is None or last is None or first > last or not _page(session, tag, first, last + 1):
        raise NotFound("No record fits that is under a checkpoint already. Ask for a longer time, or in a second.")
    return Package(scope, tag, head, first, last + 1, now, disclosure)


def written(package: Package, engine: Engine, tree: AuditTree, set_of: SetOf) -> Iterator[bytes]:
    """Writes a package, piece by piece; takes no more of the database's time than one page of records at once.

    Raises:
        Unavailable: the log's key was replaced meanwhile, or what is in the package was erased. The ZIP file ends in
            the middle then.
    """
    sink, listed = _Sink(), list[dict[str, Any]]()
    made = datetime.fromtimestamp(min(max(package.made_at, _FIRST_S), _LAST_S), UTC)
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, pieces in _files(package, engine, tree, set_of, listed):
            digest, size = hashlib.sha256(), 0
            entry = zipfile.ZipInfo(name, made.timetuple()[:6])
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as file:
                for piece in pieces:
                    file.write(piece)
                    digest.update(piece)
                    size += len(piece)
                    if len(sink.waiting) >= _PIECE:
                        yield sink.taken()
            listed.append({"path": name, "sha256": digest.hexdigest(), "bytes": size})
    yield sink.taken()


def _files(
    package: Package, engine: Engine, tree: AuditTree, set_of: SetOf, listed: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Each file with its bytes, in order; what comes later depends on what was read for the earlier ones."""
    head = checkpoint.parse_unverified(package.head)
    summary = Summary()
    yield "checkpoint", iter([package.head.encode()])
    yield "log-keys.json", iter([orjson.dumps({"successions": tree.successions()}, option=orjson.OPT_INDENT_2)])
    yield "records.jsonl", _records(package, engine, tree, head.size, summary)
    yield "erasures.jsonl", _erasures(package, engine, tree, head.size, summary)
    yield "entities.jsonl", _slices(engine, summary)
    for hash in sorted(summary.sets):
        with reading(engine) as session:
            try:
                texts = set_of(session, hash)
            except NotFound:
                continue
        for file in sorted(texts):
            yield f"policies/{hash}/{file}", iter([texts[file].encode()])
    manifest = {
        "format": HEADER,
        "log": head.origin,
        "size": head.size,
        "root": note.encode_base64(head.root),
        "made_at_ms": at_ms(package.made_at),
        "scope": {"since_ms": package.scope.since_ms, "until_ms": package.scope.until_ms, "agent": package.scope.agent},
        "range": [package.start, package.end],
        "records": summary.records,
        "withheld": package.disclosure.withheld,
    }
    yield "index.html", iter([summary.page(manifest)])
    yield "verify.py", iter([verifier.text()])
    text = orjson.dumps({**manifest, "files": list(listed)}, option=orjson.OPT_INDENT_2)
    yield "manifest.json", iter([text])
    digest = note.encode_base64(hashlib.sha256(text).digest())
    said = f"{HEADER}\n{head.origin}\n{head.size}\n{note.encode_base64(head.root)}\n{digest}\n"
    yield "manifest.note", iter([tree.vouch(package.head, said).encode()])


def _records(package: Package, engine: Engine, tree: AuditTree, size: int, summary: Summary) -> Iterator[bytes]:
    after, number = package.start, 0
    while True:
        with reading(engine) as session:
            rows = _page(session, package.tag, after, package.end, number)
            if not rows:
                return
            summary.erasures |= _took(session, rows, package.disclosure, size)
        proofs = tree.inclusions([row[0] for row in rows], size)
        for (idx, _, kind, agent, at, entry, commitments, stored), proof in zip(rows, proofs, strict=True):
            groups = package.disclosure.of(stored)
            summary.add(idx, kind, package.disclosure.column("agent", agent), at, groups)
            yield _proved(idx, entry, commitments, groups, proof)
        after, number = rows[-1][0] + 1, rows[-1][1]


def _took(session: Session, rows: Sequence[tuple[Any, ...]], disclosure: Disclosure, size: int) -> set[int]:
    """The records of the erasures that took groups of these records which would be shown."""
    lacking = {row[0]: disclosure.groups.intersection(trail.absent(row[-1])) for row in rows}
    said = erasures.of_records(session.connection(), (idx for idx, names in lacking.items() if names))
    found = {by for idx, names in said.items() for name, by in names.items() if name in lacking[idx]}
    if any(by >= size for by in found):
        raise Unavailable("Records were erased while the package was written. Ask for it again.")
    return found


def _erasures(package: Package, engine: Engine, tree: AuditTree, size: int, summary: Summary) -> Iterator[bytes]:
    """What those say, for a reader who is shown what records of erasures say."""
    named = sorted(summary.erasures) if "remedy" in package.disclosure.groups else []
    for place in range(0, len(named), _PAGE):
        few = named[place : place + _PAGE]
        with reading(engine) as session:
            found = {each.idx: each for each in erasures.stored_at(session.connection(), few)}
        for idx, proof in zip(few, tree.inclusions(few, size), strict=True):
            each = found[idx]
            yield _proved(idx, each.entry, each.commitments, package.disclosure.of(each.groups), proof)


def _proved(
    idx: int, entry: bytes, commitments: bytes, groups: Mapping[str, tuple[str, str]], proof: Sequence[bytes]
) -> bytes:
    """The line of a record."""
    members = {
        "index": idx,
        "entry": note.encode_base64(bytes(entry)),
        "commitments": note.encode_base64(bytes(commitments)),
        "groups": stated_groups(groups),
        "proof": [note.encode_base64(each) for each in proof],
    }
    return orjson.dumps(members) + b"\n"


def _page(session: Session, tag: str, start: int, end: int, number: int = 0) -> list[tuple[Any, ...]]:
    """The next records of the range; of one agent, those behind its running number, which grows as the index does."""
    columns = "idx, seq, kind, agent, at, entry, commitments, groups"
    whose, parameters = ("AND agent_tag = ? AND seq > ? ORDER BY seq", (tag, number)) if tag else ("ORDER BY idx", ())
    statement = f"SELECT {columns} FROM records WHERE idx >= ? AND idx < ? {whose} LIMIT {_PAGE}"  # noqa: S608  columns and clause are constants here
    return [tuple(row) for row in execute(session.connection(), statement, (start, end, *parameters))]


def _slices(engine: Engine, summary: Summary) -> Iterator[bytes]:
    named = sorted(summary.slices)
    for place in range(0, len(named), _PAGE):
        with reading(engine) as session:
            sizes = inputs.sizes(session.connection(), [each.hex() for each in named[place : place + _PAGE]])
        for digests in _few(sizes):
            with reading(engine) as session:
                found = inputs.stored(session.connection(), digests)
            for digest in sorted(found):
                yield found[digest] + b"\n"


def _few(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Digests in order, in groups that hold so many bytes together, or one that is larger alone."""
    group, held = list[str](), 0
    for digest in sorted(sizes):
        if group and held + sizes[digest] > _BYTES:
            yield group
            group, held = [], 0
        group.append(digest)
        held += sizes[digest]
    if group:
        yield group


class _Sink(io.RawIOBase):
    """What a ZIP file is written to: bytes that wait to be sent. It cannot be gone back in."""

    def __init__(self) -> None:
        self.waiting = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.waiting += data
        return len(data)

    def taken(self) -> bytes:
        found = bytes(self.waiting)
        self.waiting.clear()
        return found

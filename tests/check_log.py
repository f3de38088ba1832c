"""Re-verifies a whole log from its public bytes: checkpoint, tiles, entries, groups; and each record fits its schema.

Run after every journey.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import orjson

from broker.audit import schema
from broker.audit.events import Kind
from broker.formats import checkpoint, merkle, record, succession
from broker.formats.merkle import leaf_hash
from broker.formats.note import NoteVerifier

Fetch = Callable[[str], Awaitable[bytes]]
_SPAN = 256


async def check_public_log(
    fetch: Fetch, vkey: str, entries: Sequence[tuple[bytes, bytes, bytes]], kept: str | None
) -> str:
    """Checks everything that the log claims, and gives the checkpoint to keep for the next time.

    Args:
        fetch: gets a public path.
        vkey: a pinned key of the log; the statements that it publishes are followed.
        entries: for every index the entry, its commitments and its stored groups, as the auditor's role may read them.
        kept: the checkpoint kept from the last time.
    """
    pinned = NoteVerifier.parse(vkey)
    successions = orjson.loads(await fetch("/log/keys"))["successions"]

    def opened(signed: str) -> checkpoint.Checkpoint:
        return checkpoint.open_signed(signed, succession.key_for(signed, pinned, successions))

    note = (await fetch("/log/checkpoint")).decode()
    head = opened(note)
    assert head.size == len(entries), f"the checkpoint covers {head.size} of {len(entries)} entries"
    leaves = await _level(fetch, 0, head.size)
    assert merkle.root_of(leaves) == head.root, "the tiles do not hash to the checkpoint's root"
    await _check_upper_tiles(fetch, leaves)
    last_seq: dict[str, int] = {}
    absent: dict[int, set[str]] = {}
    erased: dict[int, set[str]] = {}
    for index, (entry, commitments, groups) in enumerate(entries):
        assert leaf_hash(entry) == leaves[index], f"entry {index} is not the one in the tree"
        fields = record.parse_entry(entry)
        assert fields.seq == last_seq.get(fields.agent_tag, 0) + 1, f"entry {index} leaves a gap in its agent's numbers"
        last_seq[fields.agent_tag] = fields.seq
        disclosed = {name: (bytes.fromhex(salt), text.encode()) for name, (salt, text) in orjson.loads(groups).items()}
        record.verify_groups(fields.root, commitments, disclosed)
        if len(disclosed) < len(record.GROUPS):
            absent[index] = set(record.GROUPS) - set(disclosed)
        if fields.kind == Kind.RECORDS_ERASED:
            remedy = orjson.loads(disclosed["remedy"][1])
            for place in (place for first, last in remedy["records"] for place in range(first, last + 1)):
                erased.setdefault(place, set()).update(remedy["groups"])
        check_schema(fields.kind, {name: text for name, (_, text) in disclosed.items()}, index)
    gone = {index: left for index, lost in absent.items() if (left := lost - erased.get(index, set()))}
    assert not gone, f"groups are missing and no record of an erasure says so: {gone}"
    if kept is not None:
        old = opened(kept)
        assert merkle.root_of(leaves[: old.size]) == old.root, "the log is not a continuation of the one kept"
    for said in map(succession.open_signed, successions):
        assert merkle.root_of(leaves[: said.size]) == said.root, "the log does not continue the tree of a succession"
    return note


def check_schema(kind: str, contents: Mapping[str, bytes], index: int) -> None:
    """Checks one record's groups against the schema of its kind; an erased group is withheld, not misfitting."""
    groups = {name: orjson.loads(content) for name, content in contents.items() if content}
    erased = set(record.GROUPS) - set(contents)
    found = [misfit for misfit in schema.misfits(kind, groups) if not _is_of(misfit, erased)]
    assert found == [], f"record {index} does not fit its schema: {found}"


def _is_of(misfit: str, erased: set[str]) -> bool:
    return any(misfit.endswith(f".{name} is missing") and misfit.count(".") == 1 for name in erased)


async def _level(fetch: Fetch, level: int, count: int) -> list[bytes]:
    hashes: list[bytes] = []
    for n in range(-(-count // _SPAN)):
        width = min(_SPAN, count - n * _SPAN)
        data = await fetch(_path(level, n, width))
        assert len(data) == 32 * width, f"tile {level}/{n} holds {len(data)} bytes"
        hashes += [data[place : place + 32] for place in range(0, len(data), 32)]
    return hashes


async def _check_upper_tiles(fetch: Fetch, below: list[bytes]) -> None:
    level = 1
    while len(below) >= _SPAN:
        above = [merkle.root_of(below[start : start + _SPAN]) for start in range(0, len(below) - _SPAN + 1, _SPAN)]
        assert await _level(fetch, level, len(above)) == above, f"the tiles of level {level} do not fit those below"
        below, level = above, level + 1


def _path(level: int, n: int, width: int) -> str:
    groups = [f"{n % 1000:03}"]
    while n := n // 1000:
        groups.insert(0, f"x{n % 1000:03}")
    return f"/log/tile/{level}/{'/'.join(groups)}" + (f".p/{width}" if width < _SPAN else "")

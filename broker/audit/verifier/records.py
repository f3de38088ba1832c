"""What proves a record of a package, and what the records of erasures say of others.

A part of verify.py, which a package brings as one file: see `broker.audit.verifier`.
"""

from __future__ import annotations

import itertools
import json
from bisect import bisect_right
from typing import Any

from broker.audit.verifier.log_proofs import NotProved, check_shape, read_json, root_from, root_of, sha256, unbase64

GROUPS = {name: n for n, name in enumerate(("who", "for_whom", "what", "decision", "request", "posture", "remedy"))}
ERASURE = "RecordsErased"  # the kind of record that says what was erased; never erased itself

# What JSON texts hold, as `check_shape` reads it.
ENTRY = {"agent_tag": str, "kind": str, "root": str, "seq": int, "v": int}
RECORD = {
    "index": int, "entry": str, "commitments": str, "groups": {"": {"salt": str, "content": str}}, "proof": [str],
}  # fmt: skip
CONTENTS = {"who": {"agent?": str, "": Any}, "request": {"at_ms?": int, "": Any}}
REMEDY = {"groups": [str], "records": [[int]], "": Any}


def check_record(record: Any, size: int, root: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entry and the shown groups of one record, once it is proved."""
    where = f"record {record['index']}"
    raw, path = (
        unbase64(record["entry"], f"{where}, entry"),
        [unbase64(p, f"{where}, proof", 32) for p in record["proof"]],
    )
    if root_from(record["index"], size, sha256(b"\0", raw), path) != root:
        raise NotProved(f"{where} is not in the log at this place: the entry or its proof was altered")
    entry = read_json(raw, f"{where}, entry", ENTRY)
    if json.dumps(entry, sort_keys=True, separators=(",", ":")).encode() != raw or entry["v"] != 1:
        raise NotProved(f"{where}: the entry is of another form than this program knows")
    stated = unbase64(record["commitments"], f"{where}, commitments", 32 * len(GROUPS))
    commitments = [stated[at : at + 32] for at in range(0, len(stated), 32)]
    if root_of(commitments).hex() != entry["root"]:
        raise NotProved(f"{where}: the commitments are not those of the entry")
    groups = {}
    for name, shown in record["groups"].items():
        content, salt = shown["content"].encode(), unbase64(shown["salt"], f"{where}, salt", 16)
        found = sha256(b"\0", name.encode(), b"\0", salt, content)
        if name not in GROUPS or found != commitments[GROUPS[name]]:
            raise NotProved(f"{where}: the group {name} is not what the entry committed to")
        groups[name] = read_json(content, f"{where}, {name}", CONTENTS.get(name, {"": Any})) if content else {}
    return entry, groups


class Erased:
    """Which groups of which records were erased, as records of erasures say."""

    def __init__(self) -> None:
        self.ranges: dict[str, list[tuple[int, int]]] = {name: [] for name in GROUPS}
        self.reach: dict[str, list[int]] = {}

    def add(self, record: Any, size: int, root: bytes) -> None:
        """The record of an erasure, once it is proved; it speaks of records before it."""
        entry, groups = check_record(record, size, root)
        where = f"record {record['index']}, remedy"
        remedy: Any = groups.get("remedy")
        check_shape(remedy, REMEDY, where)
        if entry["kind"] != ERASURE:
            raise NotProved(f"{where}: the record is of no erasure")
        for pair in remedy["records"]:
            if len(pair) != 2 or not pair[0] <= pair[1] < record["index"]:
                raise NotProved(f"{where}: no range of records before it: {pair!r:.60}")
            for name in GROUPS.keys() & set(remedy["groups"]):
                self.ranges[name].append((pair[0], pair[1]))

    def of(self, index: int, kind: str, absent: set[str]) -> set[str]:
        """Those of the absent groups of a record that were erased; after the first question, none is added."""
        if not self.reach:
            for name, ranges in self.ranges.items():
                ranges.sort()
                self.reach[name] = list(itertools.accumulate((last for _, last in ranges), max))
        places = {name: bisect_right(self.ranges[name], index, key=lambda pair: pair[0]) for name in absent}
        return {name for name, n in places.items() if kind != ERASURE and n and self.reach[name][n - 1] >= index}

"""A range of records as they are stored: the exact bytes, and what shows that they belong to the tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlmodel import Session

from broker.audit.disclosure import Disclosure
from broker.audit.stored_record import all_readable
from broker.db.engine import execute
from broker.formats import note

MAX_PAGE = 2000
MAX_BYTES = 8 * 1024 * 1024
"""Of stored records in one answer, so that no number of answers that nobody takes fills the memory."""


def read_range(session: Session, start: int, end: int, disclosure: Disclosure) -> list[dict[str, Any]]:
    """The records [start, end), the first `MAX_PAGE` of them and of few bytes; one at least, if there is any.

    Each is `{"index", "entry", "commitments", "groups": {name: {"salt", "content"}}, "withheld"}`, bytes in base64: a
    bundle without the proof, which whoever has the tree's leaves needs not. A group that was erased is not there, nor
    is one that `withheld` names.
    """
    rows = execute(
        session.connection(),
        "SELECT idx, entry, commitments, groups FROM records WHERE idx >= ? AND idx < ? ORDER BY idx LIMIT ?",
        (start, end, MAX_PAGE),
    )
    found, held = list[dict[str, Any]](), 0
    for idx, entry, commitments, groups in rows:
        held += len(groups)
        if found and held > MAX_BYTES:
            break
        stated = {
            "index": int(idx),
            "entry": note.encode_base64(bytes(entry)),
            "commitments": note.encode_base64(bytes(commitments)),
            "groups": _readable(bytes(groups), disclosure),
            "withheld": disclosure.withheld,
        }
        found.append(stated)
    return found


def _readable(stored: bytes, disclosure: Disclosure) -> dict[str, dict[str, str]] | None:
    """None for groups that were altered into what nobody can read: whoever verifies is told which record that is."""
    groups = all_readable(stored)
    return stated_groups(disclosure.part(groups)) if groups is not None else None


def stated_groups(groups: Mapping[str, tuple[str, str]]) -> dict[str, dict[str, str]]:
    """Groups as a verifier gets them: each with its salt in base64, and its content as it was committed.

    Args:
        groups: as `Disclosure.of` gives them.
    """
    return {
        name: {"salt": note.encode_base64(bytes.fromhex(salt)), "content": content}
        for name, (salt, content) in groups.items()
    }

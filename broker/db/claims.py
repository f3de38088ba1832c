"""Durable claims: a key that may be taken once, or only ever with one value, until it expires.

What may be used once (proofs, assertions, sign-in links) claims its key without a value; bearer evidence claims its key
with the thumbprint it is bound to. Today the memory of one process stands in front (`broker.tokens.replay`); several
processes share this table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine
from sqlmodel import Field, SQLModel

from broker.db.engine import execute, insert_rows, reading, select_in, writing
from broker.errors import Conflict

_PRUNED_AT_ONCE = 2_000
"""Rows deleted in one transaction, some 30 ms: the writer of records waits for it."""


class ClaimRow(SQLModel, table=True):
    """A taken key."""

    __tablename__ = "claims"

    key: str = Field(primary_key=True)
    value: str
    expires_at: float = Field(index=True)


@dataclass(frozen=True, slots=True)
class Claim:
    """A wish to take `key` until `expires_at` (seconds since the epoch).

    An empty `value` means once and never again; otherwise the same value may come again, and another value is refused.
    `moment` is a time that belongs to what is claimed and cannot differ between two presentations of it, in whole
    seconds: keys of one time lie together in the index, so that a commit writes few of its pages. 0 for none.
    """

    key: str
    value: str
    expires_at: float
    moment: int = 0

    @property
    def stored(self) -> str:
        """The key as the table has it."""
        return f"@{self.moment:x} {self.key}" if self.moment else self.key


class ClaimTaken(Conflict):
    """Somebody else holds a key that a step needs once, or holds it with another value."""

    reason = "claim_taken"

    def __init__(self, key: str) -> None:
        super().__init__("This proof or evidence was used already.")
        self.key = key


def take(connection: Connection, wishes: Sequence[Sequence[Claim]]) -> list[str | None]:
    """Takes every list of claims that is free as a whole, by position: duplicates within the batch lose to the first.

    Args:
        connection: an open writing transaction.
        wishes: for each caller, the claims that it needs together.

    Returns:
        For each caller None, or the key that somebody else holds; the claims of such a caller are not taken.
    """
    keys = {claim.stored for claims in wishes for claim in claims}
    if not keys:
        return [None] * len(wishes)
    held = dict(select_in(connection, "claims", "key, value", "key", keys))
    rows: list[tuple[str, str, float]] = []
    results: list[str | None] = []
    for claims in wishes:
        lost = next((claim.key for claim in claims if not _is_free(claim, held.get(claim.stored))), None)
        results.append(lost)
        if lost is None:
            for claim in claims:
                if claim.stored not in held:
                    held[claim.stored] = claim.value
                    rows.append((claim.stored, claim.value, claim.expires_at))
    insert_rows(connection, "claims", ("key", "value", "expires_at"), rows)
    return results


def unexpired(engine: Engine, now: float) -> list[Claim]:
    """Every claim still in force: what the memory of a restarted process begins with."""
    with reading(engine) as session:
        rows = execute(session.connection(), "SELECT key, value, expires_at FROM claims WHERE expires_at > ?", (now,))
        return [_claim(*row) for row in rows]


def prune(engine: Engine, now: float) -> int:
    """Deletes some of the claims that have ended by `now`; returns how many, 0 when none are left."""
    statement = "DELETE FROM claims WHERE key IN (SELECT key FROM claims WHERE expires_at <= ? LIMIT ?)"
    with writing(engine) as connection:
        return execute(connection, statement, (now, _PRUNED_AT_ONCE)).rowcount


def _is_free(claim: Claim, held: str | None) -> bool:
    return held is None or (claim.value != "" and held == claim.value)


def _claim(stored: str, value: str, expires_at: float) -> Claim:
    if not stored.startswith("@"):
        return Claim(stored, value, expires_at)
    moment, _, key = stored[1:].partition(" ")
    return Claim(key, value, expires_at, int(moment, 16))

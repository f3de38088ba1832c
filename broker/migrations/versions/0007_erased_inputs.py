"""Whose records name which inputs of decisions, so that an erasure reaches these.

A record that has lost one of the groups whose content an input repeats keeps none any more, so what no other record
names is deleted: no later erasure would come by it. An older broker would store inputs without saying whose they are,
and an erasure would leave them, so none goes on here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

from broker.db.sqlite import overwriting

revision = "0007"
down_revision = "0005"
branch_labels = None
depends_on = None
works_with = "0007"

_PAGE = 1000
_KEEPING = {"who", "for_whom", "what", "decision", "posture"}
"""Groups whose content an input repeats."""


def upgrade() -> None:
    """Applies it."""
    uses = op.create_table(
        "slice_uses",
        sa.Column("agent_tag", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("agent_tag", "digest"),
    )
    op.create_index("ix_slice_uses_digest", "slice_uses", ["digest"])
    seen: set[tuple[str, str]] = set()
    for tag, groups in _records():
        fresh = {(tag, digest) for digest in _named(_decision(groups))} - seen
        seen |= fresh
        if fresh:
            op.bulk_insert(uses, [{"agent_tag": tag, "digest": digest} for tag, digest in sorted(fresh)])
    with overwriting(op.get_bind()):
        op.execute("DELETE FROM entity_slices WHERE digest NOT IN (SELECT digest FROM slice_uses)")


def downgrade() -> None:
    """Takes it back."""
    op.drop_table("slice_uses")


def _records() -> Iterator[tuple[str, bytes]]:
    """The pseudonym and the groups of every record, a page at a time."""
    records = sa.table("records", sa.column("idx"), sa.column("agent_tag"), sa.column("groups"))
    last = -1
    while True:
        page = sa.select(records).where(records.c.idx > last).order_by(records.c.idx).limit(_PAGE)
        rows = op.get_bind().execute(page).all()
        for _, tag, groups in rows:
            yield tag, bytes(groups)
        if len(rows) < _PAGE:
            return
        last = rows[-1][0]


def _decision(groups: bytes) -> object:
    """What a record's decision group says; nothing if one is gone that it keeps inputs by, or nobody can read it."""
    try:
        found = json.loads(groups)
        return json.loads(found["decision"][1] or "{}") if found.keys() >= _KEEPING else None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None


def _named(decision: object) -> Iterator[str]:
    """The digests that a decision names, at any depth."""
    if isinstance(decision, dict):
        if decision.get("entities"):
            yield str(decision["entities"])
        for value in decision.values():
            yield from _named(value)

"""What is searched: what records share, when they were made, queries that were saved.

The columns of records that were there already are filled at the next start (`broker.audit.traits.sort_in`), a batch at
a time, for an older broker that comes in between leaves such records too.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
works_with = "0002"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Applies it."""
    op.create_table(
        "traits",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("policies", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "spans",
        sa.Column("n", _BIG, autoincrement=False, nullable=False),
        sa.Column("first_at", sa.Float(), nullable=False),
        sa.Column("last_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("n"),
    )
    op.create_table(
        "saved_queries",
        sa.Column("operator", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("query", sa.String(), nullable=False),
        sa.Column("changed_by", sa.String(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("operator", "name"),
    )
    op.add_column("records", sa.Column("trait", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("records", sa.Column("human", sa.String(), nullable=False, server_default=sa.text("''")))
    named = sa.text("human <> ''")
    op.create_index("ix_records_trait", "records", ["trait", "idx"])
    op.create_index("ix_records_agent_trait", "records", ["agent", "trait", "idx"])
    op.create_index(
        "ix_records_human_trait", "records", ["human", "trait", "idx"], sqlite_where=named, postgresql_where=named
    )
    op.drop_index("ix_records_agent", "records")
    op.drop_index("ix_records_kind", "records")


def downgrade() -> None:
    """Takes it back."""
    op.create_index("ix_records_agent", "records", ["agent"])
    op.create_index("ix_records_kind", "records", ["kind"])
    op.drop_index("ix_records_human_trait", "records")
    op.drop_index("ix_records_agent_trait", "records")
    op.drop_index("ix_records_trait", "records")
    op.drop_column("records", "human")
    op.drop_column("records", "trait")
    op.drop_table("saved_queries")
    op.drop_table("spans")
    op.drop_table("traits")

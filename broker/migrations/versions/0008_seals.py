"""What the broker commits is sealed until a checkpoint covers it.

An older broker would append records without seals, which nothing is signed over, so none goes on here.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
works_with = "0008"


def upgrade() -> None:
    """Applies it."""
    op.create_table(
        "seals",
        sa.Column("first", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, autoincrement=False),
        sa.Column("count", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("first"),
    )


def downgrade() -> None:
    """Takes it back."""
    op.drop_table("seals")

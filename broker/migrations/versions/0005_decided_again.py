"""What decisions were made from, so that they can be made again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
works_with = "0002"


def upgrade() -> None:
    """Applies it."""
    op.create_table(
        "entity_slices",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )


def downgrade() -> None:
    """Takes it back."""
    op.drop_table("entity_slices")

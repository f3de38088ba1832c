"""Alembic's environment: runs on the connection that `broker.migrations.upgrade` hands over."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext
from sqlmodel import SQLModel

import broker.assembly  # noqa: F401  imports every table
from broker.migrations import note_compatibility


def _applied(ctx: MigrationContext, step: object, heads: Collection[Any], run_args: object) -> None:
    assert ctx.connection is not None
    note_compatibility(ctx.connection, next(iter(heads), None))


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
    on_version_apply=_applied,
)
context.run_migrations()

"""One broker writes to a database; which one wrote last stands in it, so that nobody goes on after another."""

from __future__ import annotations

from dataclasses import dataclass

from sqlmodel import Field, SQLModel


class WriterRow(SQLModel, table=True):
    """The run of the broker that began to write last: one row."""

    __tablename__ = "writer"

    id: int = Field(primary_key=True)
    run: str


@dataclass(slots=True)
class Fence:
    """What a process knows of its right to write.

    Args:
        run: the random name under which this process began to write; empty until then.
        lost: another process has written since. For good: what this one holds in memory may be wrong.
    """

    run: str = ""
    lost: bool = False

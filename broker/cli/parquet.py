"""Records as a Parquet file, by pyarrow, which only the extra `parquet` installs.

A group is its JSON text, for the members of groups differ from kind to kind and from version to version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any

import orjson
import pyarrow
import pyarrow.parquet

from broker.formats.note import decode_base64
from broker.formats.record import GROUPS

ROWS_A_GROUP = 10_000
"""Rows in memory before they are written; a file of any length costs no more."""

CURSOR = "broker.cursor"
"""The file's own metadata hold the cursor behind its last record under this key."""

SCHEMA = pyarrow.schema(
    [
        pyarrow.field("index", pyarrow.int64(), nullable=False),
        pyarrow.field("at", pyarrow.timestamp("ms", tz="UTC"), nullable=False),
        *(
            pyarrow.field(name, pyarrow.string(), nullable=False)
            for name in ("kind", "agent", "agent_tag", "outcome", "model", "request_id")
        ),
        pyarrow.field("seq", pyarrow.int64(), nullable=False),
        *(pyarrow.field(name, pyarrow.string()) for name in GROUPS),
        pyarrow.field("withheld", pyarrow.list_(pyarrow.string()), nullable=False),
        pyarrow.field("entry", pyarrow.binary(), nullable=False),
    ]
)


class ParquetRows:
    """A sink that writes row groups of `ROWS_A_GROUP` records.

    Args:
        file: an open file; closing it is its owner's.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._writer = pyarrow.parquet.ParquetWriter(file, SCHEMA, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def write(self, records: Sequence[dict[str, Any]]) -> None:
        """Takes records, and writes a row group when there are enough."""
        self._rows += map(_row, records)
        while len(self._rows) >= ROWS_A_GROUP:
            self._write(ROWS_A_GROUP)

    def end(self, cursor: str) -> None:
        """Writes what is left, and the file's end."""
        if self._rows:
            self._write(len(self._rows))
        self._writer.add_key_value_metadata({CURSOR: cursor})
        self._writer.close()

    def leave(self) -> None:
        """Keeps pyarrow from writing the end of a file that is closed already."""
        self._writer.is_open = False

    def _write(self, count: int) -> None:
        table = pyarrow.Table.from_pylist(self._rows[:count], schema=SCHEMA)
        self._writer.write_table(table, row_group_size=count)
        del self._rows[:count]


def _row(record: dict[str, Any]) -> dict[str, Any]:
    groups = record["groups"]
    return {
        **{name: record[name] for name in SCHEMA.names if name in record},
        **{name: orjson.dumps(groups[name]).decode() if name in groups else None for name in GROUPS},
        "at": record["at_ms"],
        "entry": decode_base64(record["entry"]),
    }

"""exporting.md, followed as it is written, by an auditor with a sign-in."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from broker.cli.parquet import SCHEMA
from tests.docs.document import Document
from tests.docs.machine import Machine

OPERATING = Document.read("docs/operating.md")
EXPORTING = Document.read("docs/exporting.md")


def test_an_auditor_exports_by_the_document(tmp_path: Path) -> None:
    """Files that follow each other, the program that finds them whole, and what each format is said to hold."""
    with Machine(tmp_path, OPERATING) as machine:
        machine.follow(OPERATING.section("Start"))
        machine.follow(EXPORTING.section("Export, and go on"))
        second = machine.home / "records-2.jsonl"
        second.touch()  # nothing may have been new
        (program,) = EXPORTING.section("The cursor").blocks("python")
        (machine.home / "whole.py").write_text(program.text)
        assert machine.follow(EXPORTING.section("The cursor")).startswith("whole: ")
        first = machine.home / "records-1.jsonl"
        kept = first.read_bytes()
        for altered in (kept.replace(b'"entry":"ey', b'"entry":"fy', 1), kept[: kept.index(b"\n") + 1]):
            first.write_bytes(altered)
            with pytest.raises(AssertionError, match="AssertionError"):
                machine.follow(EXPORTING.section("The cursor"))
        members = [row[0].strip("`") for row in EXPORTING.section("JSON Lines").table()]
        assert list(json.loads(kept.splitlines()[0])) == members
        assert (
            json.loads((machine.home / "events.jsonl").read_bytes().splitlines()[0])["metadata"]["version"] == "1.9.0"
        )
        machine.follow(EXPORTING.section("Parquet"))
        with pyarrow.parquet.ParquetFile(machine.home / "records.parquet") as file:
            assert file.schema_arrow.equals(SCHEMA)
        said = EXPORTING.section("Parquet").text
        assert [name for name in SCHEMA.names if f"`{name}`" not in said] == []

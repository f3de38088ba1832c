"""operating.md, followed as it is written: from the first start to a restored log that verifies and continues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from broker.settings import Settings
from tests.docs.document import Document, is_shown
from tests.docs.machine import Machine

OPERATING = Document.read("docs/operating.md")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """An empty machine with the configuration of the document."""
    return Machine(tmp_path, OPERATING)


def follow(machine: Machine, title: str) -> None:
    """Runs every command below a heading; what the document shows of the answers must be in them."""
    printed = ""
    for block in OPERATING.section(title).blocks("sh", "text"):
        if block.language == "sh":
            printed = "".join(machine.run(line) for line in block.lines)
        else:
            assert is_shown(machine.here(block.text), printed), f"{title}: {block.text}\n---\n{printed}"


def test_a_backup_is_restored_by_the_document(machine: Machine) -> None:
    """Whoever types what stands there gets a broker whose log verifies, continues, and tells of the restore."""
    with machine:
        follow(machine, "Start")
        follow(machine, "Back up")
        assert machine.run("broker doctor --config /etc/broker/broker.toml")
        machine.run("systemctl stop broker")
        machine.run("mv /var/lib/broker/data /var/lib/broker/lost")
        follow(machine, "Restore")
        assert '"restored"' in machine.run("broker audit show 5 --json")
        assert machine.run("broker doctor --config /etc/broker/broker.toml")


def test_every_setting_stands_in_the_table() -> None:
    """With its own default; nothing is there that the broker does not know."""
    told = {row[0].strip("`"): row[1].strip("`") for row in OPERATING.section("Configure").table()}
    assert told == dict(_settings(Settings()))


def _settings(section: BaseModel, prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name in type(section).model_fields:
        value: Any = getattr(section, name)
        if isinstance(value, BaseModel):
            found += _settings(value, f"{name}.")
        else:
            found.append((prefix + name, _written(value)))
    return found


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value in (None, (), {}) else str(value)

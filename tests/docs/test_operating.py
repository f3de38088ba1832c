"""operating.md, followed as it is written: from the first start to a restored log that verifies and continues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from broker.settings import Settings
from tests.docs.document import Document
from tests.docs.machine import Machine

OPERATING = Document.read("docs/operating.md")


def test_a_backup_is_restored_by_the_document(tmp_path: Path) -> None:
    """Whoever types what stands there gets a broker whose log verifies, continues, and tells of the restore."""
    with Machine(tmp_path, OPERATING) as machine:
        machine.follow(OPERATING.section("Start"))
        machine.follow(OPERATING.section("Back up"))
        assert machine.run("broker doctor --config /etc/broker/broker.toml")
        machine.run("systemctl stop broker")
        machine.run("mv /var/lib/broker/data /var/lib/broker/lost")
        machine.follow(OPERATING.section("Restore"))
        started = json.loads(machine.run("broker audit search --kind BrokerStarted --limit 1 --json"))
        assert "restored" in started["records"][0]["groups"]["remedy"]
        assert machine.run("broker doctor --config /etc/broker/broker.toml")


def test_keys_are_replaced_and_sealed_by_the_document(tmp_path: Path) -> None:
    """Whoever types what stands there has other keys, sealed ones, and auditors who go on under what they pinned."""
    rotate = OPERATING.section("Rotate keys")
    (sealing,) = rotate.blocks("toml")
    with Machine(tmp_path, OPERATING) as machine:
        machine.follow(OPERATING.section("Start"))
        machine.run("broker audit checkpoint --key log.vkey --checkpoint-state log.checkpoint")
        passphrase = tmp_path / "etc/broker/passphrase"
        passphrase.write_text("a passphrase of my own\n")
        passphrase.chmod(0o600)
        configuration = tmp_path / "etc/broker/broker.toml"
        configuration.write_text(configuration.read_text() + "\n" + machine.here(sealing.text))
        machine.follow(rotate)  # the running service reads its configuration at the next start
        assert not any(b"PRIVATE" in file.read_bytes() for file in (tmp_path / "var/lib/broker/data/keys").iterdir())


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

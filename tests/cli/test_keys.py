"""`broker keys`: a person replaces keys, seals them, and verifies on with what was pinned before."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from broker.entropy import system_entropy
from broker.formats import succession
from broker.formats.succession import Succession
from broker.keys import KeyRing
from tests.cli.running import BrokerProcess, Person, broker_process, run, signed_in

_SECRET = "correct horse battery staple"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    """A broker of its own: its keys are replaced."""
    with broker_process(tmp_path / "broker", "--sign-in-link", "admin") as process:
        yield process


@pytest.fixture
def admin(broker: BrokerProcess, tmp_path: Path) -> Person:
    """Its admin."""
    return signed_in(tmp_path / "admin", broker.ready["sign_in_link"])


def test_the_next_token_key_is_published(admin: Person) -> None:
    """The table shows which signs and which waits, and when; a second wish is refused."""
    told = admin.ok("keys", "rotate", "--why", "a new year")
    assert "in use" in told
    assert "published" in told
    assert "The next one signs from" in told
    assert "published already" in admin.refused("keys", "rotate")
    found = admin.json("audit", "search", "--kind", "KeyPublished")
    assert found["records"][0]["groups"]["remedy"]["why"] == "a new year"


def test_a_stolen_token_key_ends_at_once(admin: Person) -> None:
    """Also the one that signed the admin's own token: the command line gets another, and goes on."""
    before = admin.json("keys", "show")["current"]
    assert admin.json("keys", "rotate", "--compromised", "current")["current"] != before
    shown = admin.json("keys", "show")
    assert before not in [key["kid"] for key in shown["tokens"]]
    assert "no key" in admin.refused("keys", "rotate", "--compromised", "x" * 43).lower()


def test_who_pinned_the_old_key_of_the_log_goes_on(admin: Person, broker: BrokerProcess, tmp_path: Path) -> None:
    """Checkpoints, bundles from before and after, offline and online, under the key that was pinned long ago."""
    old, kept = broker.log_key, tmp_path / "kept"
    admin.ok("audit", "checkpoint", "--key", old, "--checkpoint-state", str(kept))
    before, after, keys = tmp_path / "before.json", tmp_path / "after.json", tmp_path / "log-keys.json"
    admin.ok("audit", "prove", "0", "-o", str(before))
    new = admin.json("keys", "rotate", "--log", "--compromised", "current")["log"]
    result = admin("audit", "checkpoint", "--key", old, "--checkpoint-state", str(kept))
    assert result.exit_code == 0, result.output
    assert new in result.stderr
    assert "continues the" in result.stderr
    assert admin.json("audit", "checkpoint", "--key", old)["replaced_by"] == new
    assert admin.json("audit", "checkpoint", "--key", new)["replaced_by"] is None
    admin.ok("audit", "prove", "0", "-o", str(after))
    keys.write_bytes(httpx2.get(f"{broker.issuer}/log/keys").content)
    stranger = Person(tmp_path / "stranger")
    for bundle, key, more in (
        (before, old, []),
        (before, new, ["--log-keys", str(keys)]),
        (after, old, []),
        (after, new, []),
    ):
        assert "proved." in stranger.ok("audit", "verify", str(bundle), "--key", key, *more)
    told = stranger.json("audit", "verify", str(before), "--key", new, exit_code=1)
    assert "/log/keys" in told["files"][0]["detail"]
    keys.write_text(json.dumps({"successions": "x"}))
    assert "successions" in stranger.refused("audit", "verify", str(before), "--key", new, "--log-keys", str(keys))


def test_the_log_must_continue_the_tree_of_each_handover(admin: Person, broker: BrokerProcess, tmp_path: Path) -> None:
    """Also for who kept no checkpoint. A handover that came after the checkpoint was fetched accuses nobody."""
    old, kept = broker.log_key, tmp_path / "kept"
    new = admin.json("keys", "rotate", "--log")["log"]
    ring = KeyRing(broker.data_dir / "keys", system_entropy, log_origin="")

    def handed_over_at(size: int) -> None:
        said = Succession(ring.log_origin, old, new, size, b"x" * 32)
        statement = succession.sign(said, ring.log_signers[old], ring.log_signers[new])
        with closing(sqlite3.connect(broker.data_dir / "broker.db")) as database, database:
            database.execute("UPDATE log_successions SET statement = ?", (statement,))

    handed_over_at(1_000_000)
    admin.ok("audit", "checkpoint", "--key", old, "--checkpoint-state", str(kept))
    admin.ok("audit", "checkpoint", "--key", old, "--checkpoint-state", str(kept))
    handed_over_at(2)
    before = kept.read_text()
    for state in ([], ["--checkpoint-state", str(tmp_path / "none")], ["--checkpoint-state", str(kept)]):
        assert "does not continue the 2" in admin.refused("audit", "checkpoint", "--key", old, *state)
    assert kept.read_text() == before
    assert not (tmp_path / "none").exists()


def test_keys_are_sealed_and_opened(tmp_path: Path) -> None:
    """A running broker's are not touched; sealed ones need the passphrase at each start, and stay sealed in backups."""
    home, secret, config = tmp_path / "broker", tmp_path / "broker" / "passphrase", tmp_path / "broker" / "sealed.toml"
    with broker_process(home) as process:
        pinned, folder = process.log_key, process.data_dir / "keys"
        secret.write_text(_SECRET + "\n")
        secret.chmod(0o600)
        config.write_text(f"[keys]\npassphrase_file = '{secret}'\n")
        at = ["--config", str(config), "--data-dir", str(process.data_dir)]
        assert "is held by the broker process" in run("keys", "seal", *at, home=home).stderr
    assert "passphrase_file" in run("keys", "seal", "--data-dir", str(process.data_dir), home=home).stderr
    sealed = run("keys", "seal", *at, home=home)
    assert (sealed.returncode, sealed.stderr) == (0, "")
    assert not any(b"PRIVATE" in path.read_bytes() for path in folder.iterdir())
    assert "are sealed" in run("serve", "--data-dir", str(process.data_dir), home=home).stderr
    backup = tmp_path / "backup"
    with broker_process(home, "--config", str(config)) as process:
        made = run("backup", str(backup), *at, home=home)
        assert made.returncode == 0, made.stderr
        assert process.log_key.split("+")[1:] == pinned.split("+")[1:]
        assert "sealed" in run("doctor", *at, home=home).stdout
    assert not any(b"PRIVATE" in path.read_bytes() for path in (backup / "keys").iterdir())
    assert "are sealed" in run("restore", str(backup), "--data-dir", str(tmp_path / "again"), home=home).stderr
    restored = run("restore", str(backup), "--data-dir", str(tmp_path / "again"), "--config", str(config), home=home)
    assert restored.returncode == 0, restored.stderr
    secret.write_text("another long passphrase")
    assert "does not open it" in run("serve", *at, home=home).stderr
    assert "does not open it" in run("keys", "unseal", *at, home=home).stderr
    secret.write_text(_SECRET)
    assert run("keys", "unseal", *at, home=home).returncode == 0
    assert any(b"PRIVATE" in path.read_bytes() for path in folder.iterdir())
    with broker_process(home) as process:
        assert process.log_key.split("+")[1:] == pinned.split("+")[1:]

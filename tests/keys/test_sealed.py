"""Keys encrypted at rest: nothing of them on the disk, one way to open them, and a sealing that was interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from broker.entropy import system_entropy
from broker.errors import ConfigurationError, Malformed
from broker.keys import KeyRing, Unlock
from broker.keys.files import PUBLIC, reseal

PASSPHRASE = Unlock("passphrase", b"correct horse battery")
KEY_FILE = Unlock("key file", bytes(range(64)))


def _ring(folder: Path, unlock: Unlock | None, *, make: bool = True) -> KeyRing:
    return KeyRing(folder, system_entropy, log_origin="b.example/log", make=make, unlock=unlock)


def _private(folder: Path) -> Iterator[Path]:
    yield from (path for path in folder.iterdir() if path.name not in PUBLIC)


def _identity(ring: KeyRing) -> tuple[object, ...]:
    return (ring.current.kid, set(ring.log_signers), ring.tag_key, ring.nonce_key)


@pytest.mark.parametrize("unlock", [PASSPHRASE, KEY_FILE], ids=["passphrase", "key file"])
def test_nothing_private_lies_in_the_clear(tmp_path: Path, unlock: Unlock) -> None:
    """From the first start on, in no file, in no form; and the next start has the same keys."""
    ring = _ring(tmp_path / "keys", unlock)
    ring.make_token_key("EdDSA")
    ring.make_log_key()
    disk = b"".join(path.read_bytes() for path in (tmp_path / "keys").iterdir())
    pem = ring.current.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    der = ring.current.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    for secret in (b"PRIVATE KEY", pem[40:80], der[-40:], ring.tag_key, ring.nonce_key, unlock.secret):
        assert secret not in disk
    assert ring.sealed
    assert _identity(_ring(tmp_path / "keys", unlock, make=False))[1:] == _identity(ring)[1:]
    assert set(_ring(tmp_path / "keys", unlock, make=False).token_keys) == set(ring.token_keys)


@pytest.mark.parametrize(
    ("unlock", "text"),
    [
        (None, "are sealed; name what opens them"),
        (Unlock("passphrase", b"correct horse batteri"), "does not open it"),
        (KEY_FILE, "sealed with a passphrase, and a key file is configured"),
    ],
)
def test_nothing_else_opens_them(tmp_path: Path, unlock: Unlock | None, text: str) -> None:
    """No secret, another one, or one of another kind: the start is refused, and nothing is changed or made."""
    _ring(tmp_path / "keys", PASSPHRASE)
    before = {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    with pytest.raises(ConfigurationError, match=text) as refused:
        _ring(tmp_path / "keys", unlock)
    assert b"correct" not in str(refused.value).encode()
    assert {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()} == before


def test_a_sealed_file_opens_under_its_own_name_alone(tmp_path: Path) -> None:
    """Who can write the folder cannot put one secret in the place of another."""
    folder = tmp_path / "keys"
    _ring(folder, KEY_FILE)
    (folder / "tag.key").write_bytes((folder / "nonce.key").read_bytes())
    with pytest.raises(ConfigurationError, match=r"tag\.key: The key file does not open it"):
        _ring(folder, KEY_FILE)


def test_a_file_of_another_folder_does_not_open(tmp_path: Path) -> None:
    """Each folder has a salt of its own, so one secret for two brokers makes their files no exchange."""
    for name in ("one", "two"):
        _ring(tmp_path / name, KEY_FILE)
    (tmp_path / "one" / "tag.key").write_bytes((tmp_path / "two" / "tag.key").read_bytes())
    with pytest.raises(ConfigurationError, match="does not open it"):
        _ring(tmp_path / "one", KEY_FILE)


@pytest.mark.parametrize("at", [16, 20, -1])
def test_an_altered_file_is_refused(tmp_path: Path, at: int) -> None:
    """One bit of the nonce, the text or the tag."""
    folder = tmp_path / "keys"
    _ring(folder, KEY_FILE)
    data = bytearray((folder / "log.pem").read_bytes())
    data[at] ^= 1
    (folder / "log.pem").write_bytes(bytes(data))
    with pytest.raises(ConfigurationError, match=r"log\.pem: .*altered"):
        _ring(folder, KEY_FILE)


def test_a_file_in_the_clear_is_refused_in_a_sealed_folder(tmp_path: Path) -> None:
    """A key that somebody put there unsealed is not taken; the text says what to do if sealing was interrupted."""
    folder = tmp_path / "keys"
    _ring(folder, KEY_FILE)
    (folder / "tag.key").write_bytes(system_entropy(32))
    with pytest.raises(ConfigurationError, match="run `broker keys seal` again"):
        _ring(folder, KEY_FILE)


def test_a_seal_without_its_description_opens_nothing(tmp_path: Path) -> None:
    """The salt is gone: the text says that both come from a backup; nothing is taken for a key."""
    folder = tmp_path / "keys"
    _ring(folder, KEY_FILE)
    (folder / "seal.json").unlink()
    for unlock in (KEY_FILE, None):
        with pytest.raises(ConfigurationError, match=r"is sealed, and seal\.json beside it is gone"):
            _ring(folder, unlock)
    with pytest.raises(ConfigurationError, match="is gone"):
        reseal(folder, KEY_FILE, system_entropy, close=True)
    assert not (folder / "seal.json").exists()


@pytest.mark.parametrize("text", [b"", b"{}", b'{"version":2,"kind":"key file","salt":"AA"}', b'{"version":1}'])
def test_a_description_of_another_shape_is_refused(tmp_path: Path, text: bytes) -> None:
    """Of another version, or of nothing: named, and not guessed at."""
    folder = tmp_path / "keys"
    _ring(folder, KEY_FILE)
    (folder / "seal.json").write_bytes(text)
    with pytest.raises(ConfigurationError, match=r"seal\.json: "):
        _ring(folder, KEY_FILE)


def test_looking_for_keys_that_are_gone_seals_nothing(tmp_path: Path) -> None:
    """Beside a database nothing is made, no seal either: the keys that come back from a backup may have another."""
    _ring(tmp_path / "keys", None)
    (tmp_path / "keys").rename(tmp_path / "aside")
    with pytest.raises(ConfigurationError, match="is missing"):
        _ring(tmp_path / "keys", KEY_FILE, make=False)
    assert list((tmp_path / "keys").iterdir()) == []


def test_keys_in_the_clear_are_not_gone_on_with_when_they_should_be_sealed(tmp_path: Path) -> None:
    """A configuration that says sealed means it."""
    _ring(tmp_path / "keys", None)
    with pytest.raises(ConfigurationError, match="run `broker keys seal` once"):
        _ring(tmp_path / "keys", PASSPHRASE)


@pytest.mark.parametrize(("kind", "secret"), [("passphrase", b"short"), ("key file", b"k" * 31), ("passphrase", b"")])
def test_what_could_be_guessed_is_refused(kind: str, secret: bytes) -> None:
    """Too short to keep anything; the text does not repeat it."""
    with pytest.raises(Malformed, match="it needs") as refused:
        Unlock(kind, secret)  # type: ignore[arg-type]  # one of the two
    assert not secret or secret.decode() not in refused.value.detail


def test_what_opens_them_does_not_show() -> None:
    """Neither in a log line nor in a traceback."""
    assert "horse" not in f"{PASSPHRASE!r} {PASSPHRASE}"


def test_sealing_and_opening_give_the_same_keys_back(tmp_path: Path) -> None:
    """There and back again; twice is once."""
    folder = tmp_path / "keys"
    before = _identity(_ring(folder, None))
    files = {path.name: path.read_bytes() for path in _private(folder)}
    assert reseal(folder, KEY_FILE, system_entropy, close=True) == len(files)
    assert reseal(folder, KEY_FILE, system_entropy, close=True) == 0
    assert _identity(_ring(folder, KEY_FILE, make=False)) == before
    assert reseal(folder, KEY_FILE, system_entropy, close=False) == len(files)
    assert reseal(folder, KEY_FILE, system_entropy, close=False) == 0
    assert {path.name: path.read_bytes() for path in _private(folder)} == files


class _Died(Exception):
    """The process ended here."""


@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize("files", range(4))
def test_an_interrupted_sealing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, close: bool, files: int
) -> None:
    """Whichever file it died at: no broker starts on a half, and running it again ends it, with the same keys."""
    folder = tmp_path / "keys"
    before = _identity(_ring(folder, None if close else KEY_FILE))
    renamed = 0
    replace = Path.replace

    def dying(path: Path, target: Path) -> Path:
        nonlocal renamed
        if renamed == files:
            raise _Died
        renamed += 1
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(_Died):
        reseal(folder, KEY_FILE, system_entropy, close=close)
    monkeypatch.undo()
    if not close or files < 4:
        with pytest.raises(ConfigurationError):
            _ring(folder, None, make=False)
    reseal(folder, KEY_FILE, system_entropy, close=close)
    assert _identity(_ring(folder, KEY_FILE if close else None, make=False)) == before


@pytest.mark.parametrize("left", ["log.pem.partial", "token-x.pem.partial"])
def test_sealing_leaves_nothing_in_the_clear(tmp_path: Path, left: str) -> None:
    """Not even what a process left that died while it opened the keys, or while it made one."""
    folder = tmp_path / "keys"
    _ring(folder, None)
    (folder / left).write_bytes((folder / "log.pem").read_bytes())
    reseal(folder, KEY_FILE, system_entropy, close=True)
    assert not any(b"PRIVATE" in path.read_bytes() for path in folder.iterdir())


def test_another_secret_seals_nothing_over(tmp_path: Path) -> None:
    """What is sealed with one secret is not sealed again with another: the text says so, and it still opens."""
    folder = tmp_path / "keys"
    before = _identity(_ring(folder, KEY_FILE))
    for close in (True, False):
        with pytest.raises(ConfigurationError, match="does not open it"):
            reseal(folder, Unlock("key file", b"x" * 32), system_entropy, close=close)
    assert _identity(_ring(folder, KEY_FILE, make=False)) == before

"""The door to private keys: files that only their owner can read, whole or not there, and keys that never show."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from broker.entropy import system_entropy
from broker.errors import ConfigurationError
from broker.files import replace_private, write_private
from broker.formats import jwk
from broker.keys import KeyRing, load_private_pem


def _ring(folder: Path) -> KeyRing:
    return KeyRing(folder, system_entropy, log_origin="broker.example/log")


def _pem(key: Any, encryption: Any = None) -> bytes:
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    return data


def _token_file(folder: Path) -> Path:
    (found,) = folder.glob("token-*.pem")
    return found


def test_the_first_start_makes_keys_for_the_owner_alone(tmp_path: Path) -> None:
    """The folder and everything in it can be read by nobody else, and nothing half-written is left."""
    _ring(tmp_path / "keys")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()}
    assert set(modes.values()) == {0o600}
    names = sorted(name.partition("-")[0] for name in modes)
    assert names == ["log.origin", "log.pem", "nonce.key", "tag.key", "token"]
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_a_restart_has_the_same_keys(tmp_path: Path) -> None:
    """Tokens, checkpoints, pseudonyms and nonces of the last run stay good."""
    one, two = _ring(tmp_path / "keys"), _ring(tmp_path / "keys")
    assert one.current.kid == two.current.kid
    assert one.jwks() == two.jwks()
    assert set(one.log_signers) == set(two.log_signers)
    assert (one.tag_key, one.nonce_key) == (two.tag_key, two.nonce_key)
    assert len({one.tag_key, one.nonce_key}) == 2


def test_two_brokers_have_nothing_in_common(tmp_path: Path) -> None:
    """Every key is made anew for every data folder."""
    one, two = _ring(tmp_path / "one"), _ring(tmp_path / "two")
    assert one.current.kid != two.current.kid
    assert not set(one.log_signers) & set(two.log_signers)
    assert one.tag_key != two.tag_key


def test_a_key_that_was_added_verifies_too(tmp_path: Path) -> None:
    """Every token key in the folder is published and verifies; exactly one signs."""
    ring = _ring(tmp_path / "keys")
    other = ec.generate_private_key(ec.SECP256R1())
    kid = jwk.parse_public(jwk.to_members(other.public_key())).thumbprint
    write_private(tmp_path / "keys" / f"token-{kid}.pem", _pem(other))
    both = _ring(tmp_path / "keys")
    assert set(both.verifying) == {ring.current.kid, kid}
    assert both.current.kid in both.verifying
    published = both.jwks()["keys"]
    assert isinstance(published, list)
    assert {key["kid"] for key in published} == {ring.current.kid, kid}


@pytest.mark.parametrize("bits", [0o040, 0o020, 0o004, 0o002, 0o001, 0o077])
@pytest.mark.parametrize("name", [".", "log.pem", "tag.key", "nonce.key", "token"])
def test_what_others_can_reach_is_refused(tmp_path: Path, name: str, bits: int) -> None:
    """Any right of the group or of others on the folder or a key ends the start; the text says how to mend it."""
    folder = tmp_path / "keys"
    _ring(folder)
    path = _token_file(folder) if name == "token" else folder / name
    path.chmod(stat.S_IMODE(path.stat().st_mode) | bits)
    with pytest.raises(ConfigurationError, match=rf"others can read it; run `chmod go= {folder}"):
        _ring(folder)


def test_another_users_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that belongs to somebody else is that person's to change."""
    _ring(tmp_path / "keys")
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(ConfigurationError, match="keys: belongs to another user"):
        _ring(tmp_path / "keys")


def _wrong(make: Callable[[], Any]) -> Callable[[], bytes]:
    return lambda: _pem(make())


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(_wrong(lambda: rsa.generate_private_key(65537, 2048)), "neither an EC nor an Ed25519", id="rsa"),
        pytest.param(_wrong(x25519.X25519PrivateKey.generate), "neither an EC nor an Ed25519", id="x25519"),
        pytest.param(_wrong(lambda: ec.generate_private_key(ec.SECP384R1())), "no (P-256|Ed25519)", id="p-384"),
        pytest.param(lambda: b"", "no private key that can be read", id="empty"),
        pytest.param(lambda: b"-----BEGIN PRIVATE KEY-----\nAAAA\n", "no private key that can be read", id="cut"),
        pytest.param(
            lambda: _pem(ed25519.Ed25519PrivateKey.generate(), BestAvailableEncryption(b"secret")),
            "no private key that can be read",
            id="encrypted",
        ),
    ],
)
@pytest.mark.parametrize("name", ["log.pem", "token"])
def test_a_file_that_holds_another_key_is_refused(
    tmp_path: Path, name: str, content: Callable[[], bytes], text: str
) -> None:
    """A key of another type, curve or form is refused by name; nothing is made in its place."""
    folder = tmp_path / "keys"
    _ring(folder)
    path = _token_file(folder) if name == "token" else folder / name
    data = content()
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=text) as failure:
        _ring(folder)
    assert str(path) in failure.value.detail
    assert path.read_bytes() == data


def test_the_two_signing_keys_are_not_mixed_up(tmp_path: Path) -> None:
    """The log's key signs no tokens and the tokens' key no checkpoints, even when the files were swapped."""
    folder = tmp_path / "keys"
    _ring(folder)
    token = _token_file(folder)
    log_pem, token_pem = (folder / "log.pem").read_bytes(), token.read_bytes()
    (folder / "log.pem").write_bytes(token_pem)
    with pytest.raises(ConfigurationError, match=r"log\.pem: is no Ed25519"):
        _ring(folder)
    (folder / "log.pem").write_bytes(log_pem)
    token.write_bytes(log_pem)
    with pytest.raises(ConfigurationError, match="holds another key than its name says"):
        _ring(folder)


@pytest.mark.parametrize("name", ["tag.key", "nonce.key"])
@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_secret_of_another_size_is_refused(tmp_path: Path, name: str, size: int) -> None:
    """A symmetric key that was cut or padded is not used."""
    folder = tmp_path / "keys"
    _ring(folder)
    (folder / name).write_bytes(bytes(size))
    with pytest.raises(ConfigurationError, match=rf"{name}: holds {size} bytes instead of 32"):
        _ring(folder)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file in the folder's place is told as a configuration to mend."""
    (tmp_path / "keys").write_text("in the way")
    with pytest.raises(ConfigurationError, match="keys: cannot be made"):
        _ring(tmp_path / "keys")


def test_no_secret_shows(tmp_path: Path) -> None:
    """What a log line or a traceback would print of the keys gives none of them away."""
    ring = _ring(tmp_path / "keys")
    shown = f"{ring!r} {ring} {ring.current!r} {ring.current} {ring.jwks()}"
    assert isinstance(ring.current.private, ec.EllipticCurvePrivateKey)
    numbers = ring.current.private.private_numbers()
    for secret in (
        ring.tag_key.hex(),
        ring.nonce_key.hex(),
        str(numbers.private_value),
        f"{numbers.private_value:x}",
        repr(ring.tag_key),
        "PRIVATE",
        '"d"',
    ):
        assert secret not in shown
    assert ring.current.kid in repr(ring)
    for key in ring.jwks()["keys"]:
        assert set(key) == {"kty", "crv", "x", "y", "kid", "alg", "use"}


def test_a_private_file_is_whole_or_not_there(tmp_path: Path) -> None:
    """A death in the middle leaves a partial file that is never read, and the next attempt begins anew."""
    path = tmp_path / "secret"
    (tmp_path / "secret.partial").write_bytes(b"half")
    write_private(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_private_file_is_never_overwritten(tmp_path: Path) -> None:
    """A key that is there stays, and nothing is left beside it."""
    path = tmp_path / "secret"
    write_private(path, b"first")
    with pytest.raises(FileExistsError):
        write_private(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_file_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    """When there is room for a part only, that part is written first: there is no file then, rather than a cut one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_private(tmp_path / "secret", bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    write_private(tmp_path / "secret", bytes(10_000))
    assert (tmp_path / "secret").stat().st_size == 10_000


def test_a_private_file_that_is_replaced_is_whole_at_any_moment(tmp_path: Path) -> None:
    """No room for the new one: the old one stays, also where a death left both its names on one file."""
    path = tmp_path / "secret"
    write_private(path, b"the only copy")
    os.link(path, tmp_path / "secret.partial")  # died between the two names
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            replace_private(path, bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"the only copy"
    replace_private(path, b"another")
    assert path.read_bytes() == b"another"
    assert list(tmp_path.iterdir()) == [path]


def test_a_users_key_is_read_by_the_same_rules(tmp_path: Path) -> None:
    """`load_private_pem` takes EC and Ed25519 keys of the owner's, and names the file otherwise."""
    for number, key in enumerate([ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()]):
        write_private(tmp_path / f"{number}.pem", _pem(key))
        assert _pem(load_private_pem(tmp_path / f"{number}.pem")) == _pem(key)
    with pytest.raises(ConfigurationError, match=r"absent\.pem: cannot be read"):
        load_private_pem(tmp_path / "absent.pem")


@pytest.mark.parametrize("lost", ["log.pem", "log.origin", "tag.key", "nonce.key", "token-*.pem"])
def test_lost_keys_are_not_made_anew_beside_a_database(tmp_path: Path, lost: str) -> None:
    """A log never goes on under another key, name or pseudonyms: the start is refused, and the missing file named."""
    _ring(tmp_path)
    next(tmp_path.glob(lost)).unlink()
    with pytest.raises(ConfigurationError, match=lost.partition("*")[0]):
        KeyRing(tmp_path, system_entropy, log_origin="broker.example/log", make=False)


def test_the_log_keeps_its_name(tmp_path: Path) -> None:
    """A broker that moves to another address goes on with the log that verifiers know."""
    _ring(tmp_path)
    moved = KeyRing(tmp_path, system_entropy, log_origin="elsewhere.example/log", make=False)
    assert moved.log_origin == "broker.example/log"


def test_a_made_key_is_neither_published_nor_used(tmp_path: Path) -> None:
    """It lies in the folder until it is taken into use; then all of the picture changes at once."""
    ring = _ring(tmp_path / "keys")
    first, before = ring.current, ring.verifying
    made = ring.make_token_key("EdDSA")
    assert (ring.current, ring.verifying) == (first, before)
    assert made.kid not in before
    ring.use([first.kid, made.kid], made.kid)
    assert ring.current == made
    assert ring.verifying is not before
    assert [key["alg"] for key in ring.jwks()["keys"]] == ["ES256", "EdDSA"]
    ring.use([made.kid], made.kid)
    assert set(ring.verifying) == {made.kid}


def test_a_destroyed_key_is_gone_from_the_disk(tmp_path: Path) -> None:
    """One that is still in use is not destroyed."""
    ring = _ring(tmp_path / "keys")
    old, new = ring.current, ring.make_token_key("ES256")
    ring.destroy_token_key(old.kid)
    assert (tmp_path / "keys" / f"token-{old.kid}.pem").exists()
    ring.use([new.kid], new.kid)
    ring.destroy_token_key(old.kid)
    assert not (tmp_path / "keys" / f"token-{old.kid}.pem").exists()
    assert old.kid not in ring.token_keys


def test_a_key_that_is_missing_is_not_taken_into_use(tmp_path: Path) -> None:
    """The database speaks of a key that the folder has not: named, and nothing changes."""
    ring = _ring(tmp_path / "keys")
    with pytest.raises(ConfigurationError, match=r"token-other\.pem: is missing"):
        ring.use([ring.current.kid, "other"], ring.current.kid)
    assert set(ring.verifying) == {ring.current.kid}


def test_the_first_key_is_of_the_configured_algorithm(tmp_path: Path) -> None:
    """EdDSA from the first start on."""
    ring = KeyRing(tmp_path, system_entropy, log_origin="b.example/log", algorithm="EdDSA")
    assert [key["kty"] for key in ring.jwks()["keys"]] == ["OKP"]


def test_the_logs_keys_are_told_apart(tmp_path: Path) -> None:
    """The first keeps its name; a second lies beside it, and each can be destroyed."""
    ring = _ring(tmp_path / "keys")
    first = ring.first_log_signer
    assert first is not None
    second = ring.make_log_key()
    again = _ring(tmp_path / "keys")
    assert set(again.log_signers) == {first.vkey, second.vkey}
    assert again.first_log_signer is not None
    assert again.first_log_signer.vkey == first.vkey
    again.destroy_log_key(first.vkey)
    assert set(_ring(tmp_path / "keys").log_signers) == {second.vkey}

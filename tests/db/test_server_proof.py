"""How the database's server and the broker prove themselves to each other, with real certificates and passwords."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine

from broker import database_url
from broker.clock import SystemClock
from broker.db.engine import execute, open_server, reading
from broker.errors import ConfigurationError
from tests.databases import server
from tests.test_premises import certificate

pytestmark = pytest.mark.postgresql

_PASSWORD = "correct-horse-battery"
_SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")


def _pipe(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _serve(accepted: socket.socket, context: ssl.SSLContext) -> None:
    """Agrees to TLS as a server does (PostgreSQL 18 §54.2.11), and hands on what comes through it."""
    with accepted, suppress(OSError):
        assert accepted.recv(8, socket.MSG_WAITALL) == _SSL_REQUEST
        accepted.sendall(b"S")
        with context.wrap_socket(accepted, server_side=True) as inner, socket.socket(socket.AF_UNIX) as database:
            database.connect(str(server().folder / ".s.PGSQL.5432"))
            back = threading.Thread(target=_pipe, args=(database, inner))
            back.start()
            _pipe(inner, database)
            back.join()


@contextmanager
def _tls() -> Iterator[int]:
    """TLS before the server, for the wheel's has none: under cert.pem and key.pem, on the port that it gives."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("cert.pem", "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=_serve, args=(listening.accept()[0], context)).start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _open(url: str, password: str | None = None) -> Engine:
    return open_server(database_url.keywords(url), password, "token")


@pytest.mark.parametrize(
    ("host", "names", "authority", "refusal"),
    [
        ("localhost", ["localhost"], "cert.pem", None),
        ("127.0.0.1", ["127.0.0.1"], "cert.pem", None),
        ("localhost", ["db.example"], "cert.pem", "does not match host name"),
        ("127.0.0.1", ["localhost"], "cert.pem", "does not match host name"),
        ("localhost", ["localhost"], "other.pem", "certificate verify failed"),
    ],
)
def test_the_server_proves_its_name(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, names: list[str], authority: str,
    refusal: str | None,
) -> None:  # fmt: skip
    """Under verify-full another name, or an authority that is not trusted, ends the start before anything is sent."""
    monkeypatch.chdir(tmp_path)
    start = datetime.fromtimestamp(SystemClock().now(), UTC)
    certificate("other.example", start=start)
    Path("cert.pem").rename("other.pem")
    certificate(*names, start=start)
    database = engine.url.database
    engine.dispose()
    with _tls() as port:
        url = f"postgresql://broker@{host}:{port}/{database}?sslmode=verify-full&sslrootcert={tmp_path / authority}"
        if refusal is not None:
            with pytest.raises(ConfigurationError, match=refusal):
                _open(url)
            return
        opened = _open(url)
        with reading(opened) as session:
            assert execute(session.connection(), "SELECT count(*) FROM claims").scalar_one() == 0
        opened.dispose()


def test_a_server_without_tls_is_refused(engine: Engine) -> None:
    """What verify-full asks for is not given up when the server says that it has none."""
    database = engine.url.database
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def decline() -> None:
            accepted, _ = listening.accept()
            with accepted:
                accepted.recv(8)
                accepted.sendall(b"N")
                assert accepted.recv(1) == b""

        declining = threading.Thread(target=decline)
        declining.start()
        with pytest.raises(ConfigurationError, match="server does not support SSL"):
            _open(f"postgresql://broker@127.0.0.1:{listening.getsockname()[1]}/{database}?sslmode=verify-full")
        declining.join()


@pytest.fixture
def asks_for_passwords(engine: Engine) -> Iterator[str]:
    """The URL of a database on the server while it asks the broker's role for its password."""
    with server().session() as session:
        session.execute(f"ALTER ROLE broker PASSWORD '{_PASSWORD}'".encode())
    rules = server().folder / "passwords.conf"
    rules.write_text("local all postgres trust\nlocal all all scram-sha-256\n")
    rules.chmod(0o644)
    database = str(engine.url.database)
    engine.dispose()
    server().order("stop")
    server().order(f"start -c hba_file={rules}")
    try:
        yield server().url(database)
    finally:
        server().order("stop")
        server().order("start")


def test_the_right_password_opens(asks_for_passwords: str) -> None:
    """By SCRAM, which shows it to nobody."""
    _open(asks_for_passwords, _PASSWORD).dispose()


@pytest.mark.parametrize("password", ["hunter2", None])
def test_another_password_is_refused_and_told_to_nobody(asks_for_passwords: str, password: str | None) -> None:
    """The text says what failed, and holds no password; nor does what caused it."""
    with pytest.raises(ConfigurationError, match=r"storage\.database: the server cannot be used") as refusal:
        _open(asks_for_passwords, password)
    error: BaseException | None = refusal.value
    while error is not None:
        assert "hunter2" not in repr(error)
        assert _PASSWORD not in repr(error)
        error = error.__cause__ or error.__context__


def test_a_server_that_asks_for_no_password_is_refused(engine: Engine) -> None:
    """Where one is configured: whoever answers without proving that it knows it is another server."""
    with pytest.raises(ConfigurationError, match="did not complete authentication"):
        _open(server().url(str(engine.url.database)), _PASSWORD)

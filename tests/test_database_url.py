"""Where the database is, as the settings write it: what is taken, what is refused, and what is never repeated."""

from __future__ import annotations

import pytest

from broker import settings
from broker.database_url import keywords
from broker.errors import ConfigurationError


@pytest.mark.parametrize(
    ("url", "found"),
    [
        (
            "postgresql://broker@db.example/broker?sslmode=verify-full",
            {"host": "db.example", "port": "5432", "sslmode": "verify-full", "sslrootcert": "system"},
        ),
        (
            "postgresql://broker@db.example:6432/broker?sslmode=verify-full&sslrootcert=/etc/ca.pem",
            {"host": "db.example", "port": "6432", "sslmode": "verify-full", "sslrootcert": "/etc/ca.pem"},
        ),
        (
            "postgresql://broker@db.example/broker?sslmode=verify-full&sslcert=/c.pem&sslkey=/k.pem",
            {
                "host": "db.example", "port": "5432", "sslmode": "verify-full", "sslrootcert": "system",
                "sslcert": "/c.pem", "sslkey": "/k.pem",
            },
        ),
        ("postgresql://broker@127.0.0.1/broker", {"host": "127.0.0.1", "port": "5432", "sslmode": "disable"}),
        ("postgresql://broker@[::1]:99/broker", {"host": "::1", "port": "99", "sslmode": "disable"}),
        (
            "postgresql://broker@/broker?host=/run/postgresql",
            {"host": "/run/postgresql", "port": "5432", "sslmode": "disable"},
        ),
    ],
)  # fmt: skip
def test_a_server_is_named_in_pieces(url: str, found: dict[str, str]) -> None:
    """What the driver is given is what was written, and how the server proves itself."""
    assert keywords(url) == {"user": "broker", "dbname": "broker", **found}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:///broker.db", "no address of a PostgreSQL database"),
        ("postgresql+psycopg://broker@h/d", "no address of a PostgreSQL database"),
        ("postgresql://broker@127.0.0.1/d#x", "no address of a PostgreSQL database"),
        ("postgresql://broker@[::1/d", "no address of a database"),
        ("postgresql://broker@127.0.0.1:x/d", "no address of a database"),
        ("postgresql://broker:hunter2@127.0.0.1/d", "storage.database_password"),
        ("postgresql://broker:@127.0.0.1/d", "storage.database_password"),
        ("postgresql://broker@127.0.0.1/d?password=hunter2", "and nothing else"),
        ("postgresql://broker@127.0.0.1/d?options=-cfsync=off", "and nothing else"),
        ("postgresql://broker@127.0.0.1/d?hostaddr=192.0.2.1", "and nothing else"),
        ("postgresql://broker@127.0.0.1/d?sslmode=disable&sslmode=verify-full", "each once"),
        ("postgresql://127.0.0.1/d", "names a user and a database"),
        ("postgresql://broker@127.0.0.1/", "names a user and a database"),
        ("postgresql://broker@127.0.0.1/d%27", "names a user and a database"),
        ("postgresql://broker@/d", "names one server"),
        ("postgresql://broker@127.0.0.1/d?host=/run", "names one server"),
        ("postgresql://broker@/d?host=db.example", "names one server"),
        ("postgresql://broker@one,two/d?sslmode=verify-full", "names one server"),
        ("postgresql://broker@2130706433/d", "names one server"),
        ("postgresql://broker@db.example/d", "beyond loopback"),
        ("postgresql://broker@db.example/d?sslmode=require", "beyond loopback"),
        ("postgresql://broker@db.example/d?sslmode=verify-ca", "beyond loopback"),
        ("postgresql://broker@192.0.2.1/d?sslmode=disable", "beyond loopback"),
        ("postgresql://broker@127.0.0.1/d?sslmode=prefer", "sslmode=verify-full, or none on loopback"),
        ("postgresql://broker@127.0.0.1/d?sslrootcert=/ca.pem", "verify-full alone looks at"),
        ("postgresql://broker@127.0.0.1/d?sslmode=verify-full&sslrootcert=ca.pem", "whole paths"),
        ("postgresql://broker@127.0.0.1/d?sslmode=verify-full&sslcert=system", "whole paths"),
    ],
)
def test_anything_else_is_refused(url: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its key and with what to write; the text, which may hold a password, is not repeated."""
    monkeypatch.setenv("BROKER_STORAGE__DATABASE", url)
    with pytest.raises(ConfigurationError) as refusal:
        settings.load()
    assert "storage.database" in refusal.value.detail
    assert words in refusal.value.detail
    assert "hunter2" not in refusal.value.detail


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"BROKER_STORAGE__DATABASE_PASSWORD__ENV": "DB_PASSWORD"}, "goes with database"),
        ({"BROKER_STORAGE__DATABASE_PASSWORD": "hunter2"}, "storage.database_password"),
    ],
)
def test_a_password_is_named_and_never_written(
    more: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings hold where it is, and only for a server."""
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refusal:
        settings.load()
    assert words in refusal.value.detail
    assert "hunter2" not in refusal.value.detail
    assert "hunter2" not in repr(refusal.value.__cause__)


def test_a_password_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no text of the settings shows it; a variable that is empty is refused."""
    monkeypatch.setenv("BROKER_STORAGE__DATABASE", "postgresql://broker@127.0.0.1/broker")
    monkeypatch.setenv("BROKER_STORAGE__DATABASE_PASSWORD__ENV", "DB_PASSWORD")
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    found = settings.load()
    assert found.database_password() == "hunter2"
    assert "hunter2" not in repr(found)
    monkeypatch.setenv("DB_PASSWORD", "")
    with pytest.raises(ConfigurationError, match=r"storage\.database_password.*the variable DB_PASSWORD is empty"):
        found.database_password()

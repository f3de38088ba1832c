"""Who may import what. import-linter (pyproject.toml) holds the order of the layers; these rules name doors.

A module is named with its package: `broker.web` means everything below it, and modules that do not exist yet.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.source import Source, complaints

ONLY: dict[tuple[str, ...], tuple[str, ...]] = {
    ("fastapi", "starlette"): ("broker.web",),
    ("cedarpy",): ("broker.policy.engine",),
    ("aiohttp", "httpx", "httpx2", "urllib3", "requests", "urllib.request", "http.client"): (
        "broker.outbound",
        "broker.client",
        "broker.cli",  # its client of the broker's own API
        "broker.demo",  # the agent and the stand-ins that the play puts on stage
    ),
    ("jwt", "joserfc", "jose", "authlib.jose"): ("broker.formats",),
    ("typer", "click", "rich"): ("broker.cli", "broker.demo"),
    ("openai", "anthropic"): ("broker.demo",),
    ("psycopg",): ("broker.db",),
    ("pyarrow",): ("broker.cli.parquet",),
    ("broker.settings",): ("broker.assembly", "broker.cli", "broker.demo", "broker.health", "broker.premises"),
}
"""These imports belong to these modules and to nobody else."""

NEVER: dict[str, tuple[str, ...]] = {
    "broker.web": ("sqlmodel", "sqlalchemy", "sqlite3"),
    "broker.cli": ("sqlmodel", "sqlalchemy", "sqlite3"),
    "broker.client": ("sqlmodel", "sqlalchemy", "sqlite3"),
    "broker.formats": (
        "sqlmodel",
        "sqlalchemy",
        "sqlite3",
        "asyncio",
        "os",
        "pathlib",
        "socket",
        "subprocess",
    ),
}
"""SQL stays behind the door, and what is pure stays pure."""

WITHIN: dict[str, tuple[str, ...]] = {
    "broker.client": ("broker.clock", "broker.entropy", "broker.errors", "broker.formats"),
    "broker.formats": ("broker.errors",),
}
"""Of the broker's own modules these use nothing else, so that each can be taken alone."""


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def _is_within_any(module: str, packages: tuple[str, ...]) -> bool:
    return any(_is_within(module, package) for package in packages)


def imports(source: Source) -> Iterator[str]:
    """Every module that a file imports, also inside functions; `from a import b` gives `a.b`."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or '.'}.{alias.name}" for alias in node.names)


def through_the_wall(source: Source) -> Iterator[str]:
    """Imports that the module has no right to."""
    for name in imports(source):
        for libraries, owners in ONLY.items():
            if _is_within_any(name, libraries) and not _is_within_any(source.module, (*owners, *libraries)):
                yield f"imports {name}; only {', '.join(owners)} may"
        for package, closed in NEVER.items():
            if _is_within(source.module, package) and _is_within_any(name, closed):
                yield f"imports {name}; nothing in {package} may"
        for package, allowed in WITHIN.items():
            if (
                _is_within(source.module, package)
                and _is_within(name, "broker")
                and not _is_within_any(name, (package, *allowed))
            ):
                yield f"imports {name}; of the broker, {package} uses only {', '.join(allowed)}"


def statements_of_one_database(source: Source) -> Iterator[str]:
    """Statements handed to a driver as they stand, which one of the databases may not understand."""
    for node in ast.walk(source.tree):
        if (
            isinstance(node, ast.Attribute)
            and node.attr == "exec_driver_sql"
            and not _is_within(source.module, "broker.db")
        ):
            yield f"line {node.lineno}: exec_driver_sql; broker.db.engine.execute says a statement for every database"


def test_every_statement_is_said_for_every_database() -> None:
    """SQL as text goes through the door that translates it."""
    assert complaints(statements_of_one_database, "broker") == []
    assert list(statements_of_one_database(Source("broker/audit/log.py", "session.connection().exec_driver_sql('')")))
    assert not list(statements_of_one_database(Source("broker/db/copy.py", "c.exec_driver_sql('PRAGMA x')")))


def test_every_import_goes_through_its_door() -> None:
    """Libraries and settings are imported by their owners alone; the SDK and the formats stand alone."""
    assert complaints(through_the_wall, "broker") == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("broker/gateway/calls.py", "from fastapi import Request"),
        ("broker/gateway/calls.py", "import starlette.types"),
        ("broker/policy/cases.py", "def f():\n  import cedarpy"),
        ("broker/identity/attesters/oidc.py", "from aiohttp import web"),
        ("broker/tokens/exchange.py", "import urllib.request"),
        ("broker/tokens/exchange.py", "from urllib import request"),
        ("broker/tokens/exchange.py", "import jwt"),
        ("broker/web/sign_in.py", "from authlib import jose"),
        ("broker/web/oauth.py", "from broker import settings"),
        ("broker/web/oauth.py", "from broker.settings import Settings"),
        ("broker/web/oauth.py", "from sqlmodel import select"),
        ("broker/new_part/__init__.py", "import rich"),
        ("broker/audit/log.py", "from psycopg import errors"),
        ("broker/cli/agents.py", "import sqlalchemy.orm"),
        ("broker/audit/export.py", "from pyarrow import parquet"),
        ("broker/client/session.py", "from broker.db.engine import reading"),
        ("broker/client/session.py", "import broker.settings as s"),
        ("broker/formats/jws.py", "from broker.clock import Clock"),
        ("broker/formats/jws.py", "import os"),
    ],
)
def test_a_way_through_the_wall_is_found(path: str, text: str) -> None:
    """Whatever form the import takes, and in modules that are new."""
    assert list(through_the_wall(Source(path, text)))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("broker/web/oauth.py", "from fastapi import Request"),
        ("broker/policy/engine.py", "import cedarpy"),
        ("broker/outbound.py", "import aiohttp"),
        ("broker/client/httpx_auth.py", "import httpx"),
        ("broker/client/session.py", "from broker.formats import dpop\nfrom broker.client import keys"),
        ("broker/formats/evidence_jwt.py", "import jwt\nfrom broker.errors import Malformed"),
        ("broker/formats/jws.py", "import cryptography.exceptions\nfrom broker.formats import jwk"),
        ("broker/web/sign_in.py", "from authlib.integrations.base_client import OAuthError"),
        ("broker/assembly/parts.py", "from broker.settings import Settings"),
        ("broker/identity/agents.py", "from sqlmodel import SQLModel\nimport richer, joserfcx"),
    ],
)
def test_an_open_door_is_left_open(path: str, text: str) -> None:
    """Owners import what is theirs, and names that only begin alike are not mistaken."""
    assert list(through_the_wall(Source(path, text))) == []

"""The sections of the configuration: each value's shape, and that the values of a section fit each other."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from broker import database_url
from broker import origins as exact

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SEALING = ("passphrase_env", "passphrase_file", "key_file")


class Section(BaseModel):
    """Frozen, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


def _variable(name: str | None, what: str) -> str | None:
    """A variable's name, which is none of our own settings."""
    if name is not None and (not _VARIABLE.fullmatch(name) or name.startswith("BROKER_")):
        raise ValueError(f"write the name of the variable that holds {what}; BROKER_* are settings")
    return name


class Source(Section):
    """Where a secret's value comes from: exactly one of `env` (a variable's name) and `file` (a path) is given."""

    env: str | None = None
    file: Path | None = None

    @field_validator("env")
    @classmethod
    def _a_variable(cls, name: str | None) -> str | None:
        return _variable(name, "the secret")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("give either `env` (a variable's name) or `file` (a path), not both")
        return self


class Secret(Source):
    """A provider's key: where its value comes from, and who may be sent it: exact origins, `https://api.openai.com`."""

    origins: Annotated[tuple[str, ...], Field(min_length=1)]

    @field_validator("origins")
    @classmethod
    def _exact(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            host = exact.host_of(origin)
            if host is None:
                raise ValueError(
                    f"{origin!r} is no origin; write scheme://host[:port] in small letters, nothing else, "
                    "and no default port"
                )
            if origin.startswith("http:") and not exact.is_loopback(host):
                raise ValueError(f"{origin!r}: a secret would travel in the clear; use https beyond loopback")
        return origins


class Server(Section):
    """Where the broker listens and what it is called from outside."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8420
    public_url: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    trusted_proxy: str | None = None

    @field_validator("host")
    @classmethod
    def _a_host(cls, host: str) -> str:
        if not exact.is_host(host):
            raise ValueError(f"{host!r} is no address and no name in small letters; write one, such as 127.0.0.1")
        return host

    @field_validator("public_url")
    @classmethod
    def _an_origin(cls, url: str | None) -> str | None:
        if url is not None:
            host = exact.host_of(url)
            if host is None:
                raise ValueError(
                    "write scheme://host[:port] in small letters, no path and no default port; "
                    "it is the issuer identifier"
                )
            if url.startswith("http:") and host not in exact.LOOPBACK:
                raise ValueError("plain http is for loopback only; use https")
            if host in ("0.0.0.0", "::"):  # noqa: S104  refused, not listened on
                raise ValueError(f"{host} is where to listen, and nobody can be sent there; write the broker's name")
        return url

    @field_validator("trusted_proxy")
    @classmethod
    def _an_address(cls, proxy: str | None) -> str | None:
        """A name would never equal the peer's address, and so name no proxy at all."""
        if proxy is None:
            return None
        address = ip_address(proxy)
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        if address.is_unspecified or address.is_multicast or mapped is not None:
            raise ValueError(f"{proxy} is nobody's address; write the one that the proxy connects from")
        return str(address)

    @model_validator(mode="after")
    def _no_plain_http_outside(self) -> Server:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if self.tls_cert is not None and self.public_url is not None and self.public_url.startswith("http:"):
            raise ValueError("public_url says http, and tls_cert makes it https: write https in public_url")
        if (self.public_url or "").startswith("https:") and self.tls_cert is None and self.trusted_proxy is None:
            raise ValueError(
                "public_url says https and nothing speaks it: set tls_cert and tls_key, or name the proxy that "
                "ends TLS in trusted_proxy, such as 127.0.0.1 for one on this machine"
            )
        if self.host not in exact.LOOPBACK and self.tls_cert is None and self.trusted_proxy is None:
            raise ValueError(
                f"refusing to listen on {self.host} without TLS; set tls_cert and tls_key, "
                "or name the proxy that ends TLS in trusted_proxy"
            )
        if (self.host not in exact.LOOPBACK or self.trusted_proxy) and self.public_url is None:
            raise ValueError("set public_url: beyond loopback the broker's name cannot be guessed")
        return self


class Storage(Section):
    """Where state lives: keys in the data folder, everything else in its embedded database or in `database`.

    `database` is a PostgreSQL server's, `postgresql://user@host/database?sslmode=verify-full`, its password in
    `database_password` or in libpq's own password file (`~/.pgpass`).
    """

    data_dir: Path = Path("broker-data")
    database: str | None = None
    database_password: Source | None = None
    reserve_mb: Annotated[int, Field(ge=8, le=4096)] = 32
    commit_timeout_s: Annotated[float, Field(ge=0.1, le=1.0)] = 0.9

    @field_validator("data_dir", mode="before")
    @classmethod
    def _named(cls, folder: object) -> object:
        if folder == "":
            raise ValueError("is empty; write a folder, such as /var/lib/broker")
        return folder

    @field_validator("database")
    @classmethod
    def _a_server(cls, url: str | None) -> str | None:
        if url is not None:
            database_url.keywords(url)
        return url

    @model_validator(mode="after")
    def _a_password_for_a_database(self) -> Storage:
        if self.database_password is not None and self.database is None:
            raise ValueError("database_password goes with database: write the server's URL there")
        return self


class Tokens(Section):
    """Lifetimes and windows of credentials, in seconds."""

    lifetime_s: Annotated[int, Field(ge=30, le=600)] = 300
    dpop_window_s: Annotated[int, Field(ge=5, le=300)] = 60
    require_dpop_nonce: bool = False
    accept_token_endpoint_audience: bool = False


class Keys(Section):
    """The broker's own keys: how they follow each other, and what seals them on the disk (at most one of the three)."""

    algorithm: Literal["ES256", "EdDSA"] = "ES256"
    rotation_days: Annotated[float, Field(ge=0, le=3650)] = 30.0
    log_overlap_days: Annotated[float, Field(ge=0, le=3650)] = 30.0
    passphrase_env: str | None = None
    passphrase_file: Path | None = None
    key_file: Path | None = None

    @field_validator("passphrase_env")
    @classmethod
    def _a_variable(cls, name: str | None) -> str | None:
        return _variable(name, "the passphrase")

    @model_validator(mode="after")
    def _one_source(self) -> Keys:
        named = [name for name in _SEALING if getattr(self, name) is not None]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} both say what seals the keys; keep one of them")
        if 0 < self.rotation_days < 1:
            raise ValueError("rotation_days is 0 (no schedule) or at least 1")
        return self


class Outgoing(Section):
    """The outgoing door: which special-use addresses are let through, by exact host and port."""

    allow: tuple[str, ...] = ()
    ca_file: Path | None = None

    @field_validator("allow")
    @classmethod
    def _host_and_port(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        for entry in allow:
            if exact.endpoint(entry) is None:
                raise ValueError(f"{entry!r} is no host:port; write one exact host and port, such as 10.0.0.5:8443")
        return allow

    def exceptions(self) -> frozenset[tuple[str, int]]:
        """The allowed (host, port) pairs, hosts in lower case and without brackets."""
        return frozenset(pair for entry in self.allow if (pair := exact.endpoint(entry)) is not None)


class Gateway(Section):
    """Bounds of a model call."""

    max_body_bytes: Annotated[int, Field(ge=1024, le=256 * 1024 * 1024)] = 16 * 1024 * 1024
    connect_timeout_s: Annotated[float, Field(ge=0.1, le=120)] = 10.0
    first_byte_timeout_s: Annotated[float, Field(ge=0.1, le=3600)] = 300.0

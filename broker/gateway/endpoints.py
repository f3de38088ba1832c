"""Endpoints and the models they offer: where calls go. What is not named is denied.

An endpoint refers to its provider's key by name only; the configuration says which origins that key may be sent to, so
that nobody who can change data can send it elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson
from sqlalchemy import Engine
from sqlmodel import Field, Session, SQLModel, select

from broker.db.engine import reading
from broker.errors import ManifestInvalid, UnknownModel
from broker.policy.request import Entity, Uid

ENDPOINT_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}")
_PLAIN_TEXT = re.compile(r"[\x21-\x7e]{1,2048}")
WIRES = ("openai", "anthropic")
"""The formats that an endpoint may speak; `broker.gateway.wires` holds what each of them is."""
_MEMBERS = {"wire", "base_url", "secret", "models"}


class EndpointRow(SQLModel, table=True):
    """An endpoint as stored; `models` is a JSON text."""

    __tablename__ = "endpoints"

    name: str = Field(primary_key=True)
    wire: str
    base_url: str
    secret: str
    models: str
    status: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where calls go.

    Args:
        name: how ceilings and policies call it.
        wire: the format it speaks.
        base_url: what comes before the operation's path, such as `https://api.openai.com/v1`.
        secret: the name of the provider's key in the configuration; empty for none.
        models: what it offers.
        status: "active" or "disabled".
    """

    name: str
    wire: str
    base_url: str
    secret: str
    models: tuple[str, ...]
    status: str = "active"

    @property
    def origin(self) -> str:
        """Scheme, host and port, as a secret's allowed origins are written."""
        parts = urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def uid(self) -> Uid:
        """Its name in policies."""
        return ("Endpoint", self.name)

    def entity(self) -> Entity:
        """What policies can ask about it."""
        return Entity(self.uid, {"wire": self.wire})


@dataclass(frozen=True, slots=True)
class Model:
    """A model at an endpoint."""

    endpoint: Endpoint
    name: str

    @property
    def full_name(self) -> str:
        """How ceilings call it: `endpoint/model`."""
        return f"{self.endpoint.name}/{self.name}"

    @property
    def uid(self) -> Uid:
        """Its name in policies."""
        return ("Model", self.full_name)

    def entity(self) -> Entity:
        """What policies can ask about it."""
        attrs = {"name": self.full_name, "family": f"{self.endpoint.name}/*"}
        return Entity(self.uid, attrs, parents=(self.endpoint.uid,))


class Catalogue:
    """The models on offer, in memory, by wire format and name; replaced whole after a change.

    Args:
        engine: where endpoints are stored.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.endpoints: dict[str, Endpoint] = {}
        self._models: dict[tuple[str, str], Model] = {}
        self.reload()

    def reload(self) -> None:
        """Reads the endpoints anew."""
        with reading(self._engine) as session:
            endpoints = {row.name: load(row) for row in session.exec(select(EndpointRow))}
        self._models = {
            (endpoint.wire, name): Model(endpoint, name)
            for endpoint in endpoints.values()
            if endpoint.status == "active"
            for name in endpoint.models
        }
        self.endpoints = endpoints

    def find(self, wire: str, name: str) -> Model:
        """The model that a caller of this wire format means.

        Raises:
            UnknownModel: no active endpoint offers it.
        """
        model = self._models.get((wire, name))
        if model is None:
            raise UnknownModel("No endpoint offers this model. An admin can add it to one.")
        return model

    def named(self, full_name: str) -> Model:
        """The model that ceilings call `endpoint/model`.

        Raises:
            UnknownModel: no active endpoint offers it.
        """
        for model in self._models.values():
            if model.full_name == full_name:
                return model
        raise UnknownModel("No endpoint offers this model; write it as endpoint/model.")

    def of(self, wire: str) -> list[Model]:
        """Every model on offer in a wire format."""
        return [model for (spoken, _), model in self._models.items() if spoken == wire]


def parse(name: str, spec: Mapping[str, Any]) -> Endpoint:
    """Builds an endpoint from its specification `{wire, base_url, secret?, models}`.

    Raises:
        ManifestInvalid: names the endpoint, the member and what to write instead.
    """
    unknown = set(spec) - _MEMBERS
    if unknown:
        raise ManifestInvalid(f"endpoint {name}: unknown member `{sorted(unknown)[0]}`.")
    if not ENDPOINT_NAME.fullmatch(name):
        raise ManifestInvalid(f"endpoint {name}: names are small letters, digits and -, at most 63.")
    wire = spec.get("wire", "openai")
    if wire not in WIRES:
        raise ManifestInvalid(f"endpoint {name}: `wire` must be one of {', '.join(WIRES)}.")
    base_url = spec.get("base_url")
    if not isinstance(base_url, str) or not _is_base_url(base_url):
        raise ManifestInvalid(f"endpoint {name}: `base_url` must be an http(s) URL without query, fragment or user.")
    secret = spec.get("secret", "")
    if not isinstance(secret, str):
        raise ManifestInvalid(f"endpoint {name}: `secret` is the name of a secret in broker.toml.")
    models = spec.get("models")
    if (
        not isinstance(models, list)
        or not models
        or not all(isinstance(m, str) and _MODEL_NAME.fullmatch(m) for m in models)
    ):
        raise ManifestInvalid(f"endpoint {name}: `models` must list the names of the models it offers.")
    if len(set(models)) != len(models):
        raise ManifestInvalid(f"endpoint {name}: `models` lists a name twice.")
    return Endpoint(name, wire, base_url.rstrip("/"), secret, tuple(models))


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(
            _PLAIN_TEXT.fullmatch(url)
            and parts.scheme in {"http", "https"}
            and parts.hostname
            and parts.port != 0
            and not {"?", "#", "@"} & set(url)
        )
    except ValueError:  # a host or port that is none
        return False


def load(row: EndpointRow) -> Endpoint:
    """The endpoint that a row holds."""
    return Endpoint(row.name, row.wire, row.base_url, row.secret, tuple(orjson.loads(row.models)), row.status)


def store(session: Session, endpoint: Endpoint) -> None:
    """Inserts or replaces the endpoint's row."""
    row = session.get(EndpointRow, endpoint.name) or EndpointRow(
        name=endpoint.name, wire="", base_url="", secret="", models="", status=""
    )
    row.wire, row.base_url, row.secret = endpoint.wire, endpoint.base_url, endpoint.secret
    row.models, row.status = orjson.dumps(list(endpoint.models)).decode(), endpoint.status
    session.add(row)
    session.flush()

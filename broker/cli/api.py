"""The API as the command line uses it: the saved sign-in, and requests with its tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from broker.client import BrokerAuth
from broker.clock import SystemClock
from broker.entropy import new_id, system_entropy
from broker.errors import BrokerError, ConfigurationError, Malformed
from broker.formats import canonical_json, dpop
from broker.keys import load_private_pem, write_private
from broker.settings import user_config_dir

_TIMEOUT_S = 60.0


class ApiFailed(BrokerError):
    """The broker answered with an error; the text is the broker's own."""

    reason = "api_failed"


@dataclass(frozen=True, slots=True)
class Login:
    """A saved sign-in: which broker, as whom, with which key file."""

    issuer: str
    client_id: str
    key: Path


def saved_login() -> Login:
    """The sign-in that the last `broker login` saved.

    Raises:
        ConfigurationError: there is none.
    """
    try:
        saved = json.loads((user_config_dir() / "login.json").read_text("utf-8"))
        return Login(saved["issuer"], saved["client_id"], user_config_dir() / saved["key"])
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(
            "Not signed in. Run `broker login LINK` with the link that `broker serve` shows, or that an admin gives you."
        ) from error


def sign_in(link: str) -> tuple[Login, list[str]]:
    """Spends a one-time link for a new key, and saves both; returns the operator's roles too.

    Raises:
        ConfigurationError: this is no link.
        ApiFailed: the broker refused it; nothing was saved.
    """
    parts = urlsplit(link)
    if parts.scheme not in ("http", "https") or not parts.netloc or not parts.fragment:
        raise ConfigurationError(
            "This is no sign-in link. It looks like http://127.0.0.1:8420/login#…; quote it in a shell."
        )
    private = ec.generate_private_key(ec.SECP256R1())
    url = f"{parts.scheme}://{parts.netloc}{parts.path}"
    proof = dpop.prove(private, method="POST", url=url, now=SystemClock().now(), jti=new_id(system_entropy))
    with _sending(url):
        answer = httpx2.post(url, json={"code": parts.fragment}, headers={"DPoP": proof}, timeout=_TIMEOUT_S)
    members = _read(answer)
    folder = user_config_dir()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"key-{new_id(system_entropy)}.pem"
    write_private(folder / name, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    saved = {"issuer": members["issuer"], "client_id": members["client_id"], "key": name}
    (folder / "login.json").unlink(missing_ok=True)
    write_private(folder / "login.json", json.dumps(saved).encode())
    return Login(saved["issuer"], saved["client_id"], folder / name), list(members["roles"])


class Api:
    """Requests to `/api/v1` with an operator's tokens. Use it as a context manager.

    Args:
        login: who asks; the saved sign-in unless given.
    """

    def __init__(self, login: Login | None = None) -> None:
        self.login = login or saved_login()
        base = f"{self.login.issuer}/api/v1"
        auth = BrokerAuth(
            self.login.issuer, client_id=self.login.client_id, key=load_private_pem(self.login.key), audience=base
        )
        self._client = httpx2.Client(base_url=base, auth=auth, timeout=_TIMEOUT_S)

    def __enter__(self) -> Api:
        """Opens nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the connections."""
        self._client.close()

    def get(self, path: str, **parameters: object) -> Any:
        """The JSON answer of a GET; parameters that are None are left out."""
        given = {name: str(value) for name, value in parameters.items() if value is not None}
        with _sending(self.login.issuer):
            return _read(self._client.get(path, params=given))

    def download(self, path: str) -> bytes:
        """The bytes of a GET."""
        with _sending(self.login.issuer):
            answer = self._client.get(path)
        _check(answer)
        return answer.content

    def post(self, path: str, body: Mapping[str, Any] | None = None, **parameters: object) -> Any:
        """The JSON answer of a POST."""
        given = {name: str(value) for name, value in parameters.items() if value is not None}
        with _sending(self.login.issuer):
            return _read(self._client.post(path, json=body, params=given))

    def public(self, path: str) -> bytes:
        """The bytes of what anybody may read, such as `/log/checkpoint`."""
        with _sending(self.login.issuer):
            answer = httpx2.get(self.login.issuer + path, timeout=_TIMEOUT_S)
        _check(answer)
        return answer.content


class _sending:  # noqa: N801  reads like the statement it is
    """Turns a connection that fails into a sentence."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, httpx2.TransportError):
            raise ApiFailed(f"No answer from {self._where}: {error}. Is the broker running there?") from error


def _check(answer: httpx2.Response) -> None:
    if answer.is_success:
        return
    try:
        members = canonical_json.parse(answer.content, max_bytes=1024 * 1024)
    except Malformed:
        members = None
    detail = members.get("detail") or members.get("error_description") if isinstance(members, dict) else None
    raise ApiFailed(str(detail or f"The broker answered {answer.status_code}."))


def _read(answer: httpx2.Response) -> Any:
    _check(answer)
    return json.loads(answer.content)

"""The API as the command line uses it: the saved sign-in, and requests with its tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import BaseModel

from broker.cli import answers
from broker.cli.answers import ApiFailed
from broker.client import BrokerAuth, TokenRefused
from broker.clock import SystemClock
from broker.entropy import new_id, system_entropy
from broker.errors import ConfigurationError, Malformed
from broker.files import write_private
from broker.formats import canonical_json, dpop, jwk
from broker.keys import load_private_pem
from broker.settings import user_config_dir

_TIMEOUT_S = 60.0
_PAGE = 500
_MAX_ERROR_BYTES = 1024 * 1024
_NEXT_KEY = "next-key.pem"
"""The key that waits for a link that names it."""


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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            "Not signed in. Run `broker login LINK` with the link that `broker serve` shows or an admin gives you."
        ) from error


def sign_in(link: str) -> tuple[Login, list[str]]:
    """Spends a one-time link for the key that waits for it, or a new one; saves both, returns the roles too.

    Raises:
        ConfigurationError: this is no link.
        ApiFailed: the broker refused it; nothing was saved.
    """
    parts = urlsplit(link)
    if parts.scheme not in ("http", "https") or not parts.netloc or not parts.fragment:
        raise ConfigurationError(
            "This is no sign-in link. It looks like http://127.0.0.1:8420/login#…; quote it in a shell."
        )
    waiting = user_config_dir() / _NEXT_KEY
    private = load_private_pem(waiting) if waiting.exists() else _made()
    url = f"{parts.scheme}://{parts.netloc}{parts.path}"
    proof = dpop.prove(private, method="POST", url=url, now=SystemClock().now(), jti=new_id(system_entropy))
    with sending(url):
        answer = httpx2.post(url, json={"code": parts.fragment}, headers={"DPoP": proof}, timeout=_TIMEOUT_S)
    members = _read(answer, answers.SignedIn)
    folder = user_config_dir()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"key-{new_id(system_entropy)}.pem"
    write_private(folder / name, _pem(private))
    saved = {"issuer": members["issuer"], "client_id": members["client_id"], "key": name}
    fresh = folder / f"login-{name}.json"
    write_private(fresh, json.dumps(saved).encode())
    fresh.replace(folder / "login.json")
    waiting.unlink(missing_ok=True)
    return Login(saved["issuer"], saved["client_id"], folder / name), list(members["roles"])


def new_key() -> str:
    """Makes the key that the next link is spent for, unless one waits already; returns its thumbprint (RFC 7638)."""
    folder = user_config_dir()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / _NEXT_KEY).exists():
        write_private(folder / _NEXT_KEY, _pem(_made()))
    return jwk.parse_public(jwk.to_members(load_private_pem(folder / _NEXT_KEY).public_key())).thumbprint


def _made() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _pem(private: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


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

    def get(self, path: str, shape: type[BaseModel] = answers.Anything, **parameters: object) -> Any:
        """The JSON answer of a GET, of this shape; parameters that are None or empty are left out."""
        with sending(self.login.issuer):
            return _read(self._client.get(path, params=_given(parameters)), shape)

    def pages(
        self, path: str, shape: type[BaseModel] = answers.Listed, *, limit: int | None, **parameters: object
    ) -> Iterator[Any]:
        """The JSON answers of page after page of a list; `limit` bounds the items of all pages together.

        A page that names its search is asked on under that name, so that one search leaves one record.
        """
        found = 0
        while limit is None or found < limit:
            size = _PAGE if limit is None else min(_PAGE, limit - found)
            page = self.get(path, shape, limit=size, **parameters)
            yield page
            if page["next"] is None:
                return
            found += size
            parameters |= {"after": page["next"], "search": page.get("search")}

    def download(self, path: str) -> bytes:
        """The bytes of a GET."""
        with sending(self.login.issuer):
            answer = self._client.get(path)
        check_answer(answer, answer.content)
        return answer.content

    def lines(self, path: str, shape: type[BaseModel], **parameters: object) -> Iterator[Any]:
        """The JSON lines of a GET as they come, each of this shape; they may be more than fit into memory.

        They are read no faster than they are taken. A line that was cut short is left out; that the connection broke
        off is an `ApiFailed` behind the others.
        """
        with self._stream(path, parameters) as answer:
            rest = b""
            for part in answer.iter_bytes():
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    yield answers.read(line, shape, f"{self.login.issuer}{path}")

    def save(self, path: str, file: Path, **parameters: object) -> None:
        """Writes the bytes of a GET into a file as they come, whole or not at all."""
        partial = file.with_name(file.name + ".partial")
        try:
            with self._stream(path, parameters) as answer, partial.open("wb") as opened:
                try:
                    for piece in answer.iter_bytes():
                        opened.write(piece)
                except httpx2.RequestError as error:
                    raise ApiFailed(
                        "The broker's answer broke off in the middle, and nothing of it is kept: your token or your "
                        "right ended meanwhile, or the connection did. Ask again, and for less at once.",
                        reason="broke_off",
                    ) from error
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    @contextmanager
    def _stream(self, path: str, parameters: Mapping[str, object]) -> Iterator[httpx2.Response]:
        with sending(self.login.issuer), self._client.stream("GET", path, params=_given(parameters)) as answer:
            check_answer(answer, b"" if answer.is_success else answer.read())
            yield answer

    def post(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        shape: type[BaseModel] = answers.Anything,
        **parameters: object,
    ) -> Any:
        """The JSON answer of a POST, of this shape."""
        with sending(self.login.issuer):
            return _read(self._client.post(path, json=body, params=_given(parameters)), shape)

    def public(self, path: str) -> bytes:
        """The bytes of what anybody may read, such as `/log/checkpoint`."""
        with sending(self.login.issuer):
            answer = httpx2.get(self.login.issuer + path, timeout=_TIMEOUT_S)
        check_answer(answer, answer.content)
        return answer.content


def segment(name: str) -> str:
    """A name as one segment of a path, whatever it holds."""
    return quote(name, safe="")


def one_of(prefix: str, names: list[str], what: str) -> str:
    """The one name that begins with `prefix`, for names are long hashes.

    Raises:
        ConfigurationError: none does, or several do.
    """
    found = sorted({name for name in names if name.startswith(prefix)})
    if prefix in found or len(found) == 1:
        return prefix if prefix in found else found[0]
    raise ConfigurationError(f"{'Several' if found else 'No'} {what} begin with {prefix!r}. Give more of it, or all.")


class sending:
    """Turns a connection that fails, or a sign-in that is over, into a sentence."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, httpx2.RequestError | httpx2.InvalidURL):
            raise ApiFailed(
                f"No answer from {self._where}: {error}. Is the broker running there?", reason="unreachable"
            ) from error
        if isinstance(error, TokenRefused):
            raise ApiFailed(
                f"{self._where} gives this machine no token: {error.description or error.error}. If your sign-in is "
                "over, ask an admin for a new link and run `broker login LINK`.",
                reason=error.error,
            ) from error


def _given(parameters: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in parameters.items() if value not in (None, "")}


def check_answer(answer: httpx2.Response, content: bytes) -> None:
    """Makes sure that the broker did what it was asked.

    Args:
        answer: its status.
        content: its body.

    Raises:
        ApiFailed: it did not; the text is the broker's own.
    """
    if answer.is_success:
        return
    try:
        members = canonical_json.parse(content, max_bytes=_MAX_ERROR_BYTES)
    except Malformed:
        members = None
    if not isinstance(members, dict):
        members = {}
    detail = members.get("detail") or members.get("error_description")
    reason = str(members.get("type") or members.get("error") or "").rpartition(":")[2]
    raise ApiFailed(str(detail or f"The broker answered {answer.status_code}."), reason=reason or None)


def _read(answer: httpx2.Response, shape: type[BaseModel]) -> Any:
    check_answer(answer, answer.content)
    return answers.read(answer.content, shape, str(answer.url))

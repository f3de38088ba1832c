"""The SDK stands alone: it is imported and used without anything that the broker's server needs."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

SERVER_ONLY = (
    "aiohttp",
    "alembic",
    "authlib",
    "cedarpy",
    "fastapi",
    "jwt",
    "pydantic",
    "rich",
    "sqlalchemy",
    "sqlmodel",
    "starlette",
    "typer",
    "uvicorn",
    "yaml",
)

BLOCK = """
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is not for the SDK")

sys.meta_path.insert(0, Refusing())
"""


def _run(blocked: tuple[str, ...], program: str) -> str:
    """Runs a program in a fresh process where some packages cannot be imported."""
    source = f"BLOCKED = {blocked!r}\n{BLOCK}\n{textwrap.dedent(program)}"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("library", "name"), [("httpx2", "BrokerAuth"), ("httpx", "HttpxBrokerAuth")])
def test_each_adapter_needs_its_own_library_only(library: str, name: str) -> None:
    """With every server package and the other HTTP library out of reach, an auth is made and proves a request."""
    other = "httpx" if library == "httpx2" else "httpx2"
    out = _run(
        (*SERVER_ONLY, other, "openai"),
        f"""
        import {library} as library
        from broker.client import {name} as Auth

        def answer(request):
            if request.url.path == "/token":
                return library.Response(200, json={{"access_token": "t", "token_type": "DPoP", "expires_in":
                60}})
            return library.Response(200, text=request.headers["Authorization"] + " " +
            request.headers["DPoP"][:2])

        auth = Auth("https://broker.example", lambda: "evidence")
        with library.Client(auth=auth, transport=library.MockTransport(answer)) as client:
            print(client.get("https://broker.example/openai/v1/models").text)
        """,
    )
    assert out == "DPoP t ey"


def test_the_functions_need_no_http_library() -> None:
    """Who brings another HTTP client builds requests and proofs without httpx and httpx2."""
    out = _run(
        (*SERVER_ONLY, "httpx", "httpx2"),
        """
        import broker.client
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        form = broker.client.exchange_form("evidence", resource="https://b.example/openai/v1")
        request = broker.client.build_token_request(
            "https://b.example", form, Ed25519PrivateKey.generate(), now=0.0, jti="j"
        )
        print(request.url, request.headers["DPoP"].count("."))
        """,
    )
    assert out == "https://b.example/token 2"


def test_an_unknown_name_is_an_attribute_error() -> None:
    """Lazy names do not make every name exist."""
    import broker.client

    with pytest.raises(AttributeError, match="NoSuchThing"):
        broker.client.NoSuchThing  # noqa: B018  the access is the act

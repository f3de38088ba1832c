"""The form of a token request: read exactly or refused, and nothing of it repeated in an error."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote, quote_plus, unquote_plus

from hypothesis import given
from hypothesis import strategies as st

from broker.tokens import request
from broker.tokens.request import CLIENT_CREDENTIALS, TOKEN_EXCHANGE, TokenRequest
from tests.fuzz.mutations import damaged
from tests.fuzz.outcome import SECRET, effort, taken

JWT = "urn:ietf:params:oauth:token-type:jwt"
EXCHANGE = [
    ("grant_type", TOKEN_EXCHANGE), ("subject_token", f"e.y.{SECRET}"), ("subject_token_type", JWT),
    ("resource", "https://b.example/openai/v1"), ("audience", "https://b.example/api/v1"), ("scope", "a b"),
    ("requested_token_type", request.ACCESS_TOKEN_TYPE),
]  # fmt: skip
CREDENTIALS = [
    ("grant_type", CLIENT_CREDENTIALS), ("client_id", "nightly"), ("client_assertion", f"e.y.{SECRET}"),
    ("client_assertion_type", request.JWT_BEARER_ASSERTION), ("resource", "https://b.example/openai/v1"),
]  # fmt: skip
NAMES = sorted(
    {name for name, _ in [*EXCHANGE, *CREDENTIALS]} | {"client_secret", "actor_token", "code", "GRANT_TYPE", ""}
)
VALUES = st.sampled_from(
    ["", SECRET, "é", "\U0001f600", "a&b=c", "+", "%", "\x00", "\n", " ", JWT, TOKEN_EXCHANGE, "x" * 999]
)


def _escaped(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


SPELLINGS: list[Callable[[str], str]] = [quote_plus, quote, _escaped]


@st.composite
def forms(draw: st.DrawFn) -> bytes:
    """A form that was right, with fields left out, doubled, renamed, put in another order and spelled anyhow."""
    fields = list(draw(st.sampled_from([EXCHANGE, CREDENTIALS])))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(fields) - 1))
        match draw(st.sampled_from(["drop", "double", "rename", "value", "add", "many"])):
            case "drop" if len(fields) > 1:
                del fields[at]
            case "double":
                fields.append((fields[at][0], draw(VALUES)))
            case "rename":
                fields[at] = (draw(st.sampled_from(NAMES)), fields[at][1])
            case "value":
                fields[at] = (fields[at][0], draw(VALUES))
            case "many":
                fields += [("resource", f"https://b.example/{number}") for number in range(draw(st.integers(30, 50)))]
            case _:
                fields.append((draw(st.sampled_from(NAMES)), draw(VALUES)))
    fields = draw(st.permutations(fields)) if draw(st.booleans()) else fields
    spell = draw(st.sampled_from(SPELLINGS))
    body = "&".join(f"{spell(name)}={spell(value)}" for name, value in fields).encode()
    return draw(damaged(body, most=2)) if draw(st.integers(0, 2)) == 0 else body


def _fields(body: bytes) -> list[tuple[str, str]]:
    """A form as the URL standard's parser cuts it, without any of its checks."""
    pairs = (item.partition("=") for item in body.decode("latin-1").split("&") if item)
    return [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]


@effort(400)
@given(forms())
def test_a_form_has_one_meaning_or_is_refused(body: bytes) -> None:
    """What is taken says each parameter once, and the request holds exactly the values that were sent."""
    found = taken(lambda: request.parse(body, proofs=("p",), source="s", request_id="r"))
    if found is None:
        return
    assert isinstance(found, TokenRequest)
    fields = _fields(body)
    once = [name for name, _ in fields if name not in ("resource", "audience")]
    assert len(once) == len(set(once))
    assert len(fields) <= 40
    values = dict(fields)
    assert found.grant_type == values["grant_type"]
    assert found.grant_type in (TOKEN_EXCHANGE, CLIENT_CREDENTIALS)
    for name in (
        "subject_token",
        "subject_token_type",
        "requested_token_type",
        "scope",
        "client_id",
        "client_assertion",
    ):
        assert getattr(found, name) == values.get(name, "")
    assert not values.get("client_secret")
    assert not values.get("actor_token")
    asked = [value for name, value in fields if name in ("resource", "audience") and value]
    assert found.resource == tuple(dict.fromkeys(asked))
    assert found.subject_token or found.grant_type == CLIENT_CREDENTIALS
    assert (found.proofs, found.source, found.request_id) == (("p",), "s", "r")


@effort(200)
@given(st.binary(max_size=200) | st.text("=&%+;a\x00é", max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """A body that is no form at all is refused in words of ours."""
    taken(lambda: request.parse(body, proofs=(), source="s", request_id="r"))


@effort(100)
@given(
    st.dictionaries(
        st.sampled_from(["scope", "client_id", "resource"]), st.text(st.characters(codec="utf-8"), min_size=1)
    )
)
def test_every_text_travels(fields: dict[str, str]) -> None:
    """Any text that is encoded as the standard says arrives unchanged."""
    sent = {**dict(EXCHANGE[:3]), **fields}
    body = "&".join(f"{name}={quote_plus(value)}" for name, value in sent.items()).encode()
    found = request.parse(body, proofs=(), source="", request_id="")
    assert (found.scope, found.client_id) == (fields.get("scope", ""), fields.get("client_id", ""))
    assert found.resource == ((fields["resource"],) if "resource" in fields else ())

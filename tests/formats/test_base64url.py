"""base64url: one spelling for each byte string."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Malformed
from broker.formats import base64url


@given(st.binary(max_size=100))
def test_what_is_written_is_read(data: bytes) -> None:
    """Bytes survive, as text and as bytes, and nothing but the alphabet of RFC 4648 §5 is written."""
    text = base64url.encode(data)
    assert base64url.decode(text) == base64url.decode(text.encode()) == data
    assert text == base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@given(st.text(alphabet="AQgwBZ09-_+/= \n=é", max_size=12))
def test_each_byte_string_has_one_spelling(text: str) -> None:
    """Whatever is read is written back as the same text: no second spelling gets through."""
    try:
        data = base64url.decode(text)
    except Malformed:
        return
    assert base64url.encode(data) == text


@pytest.mark.parametrize(
    "text",
    [
        "A", "AAAAA", "AB", "Zh", "Zm9", "AAB", "AA==", "AAA=", "AAAA=", "AA+A", "AA/A", "AA A", "AAA\n", "\nAAAA",
        "AA\x00A", "ÄAAA", "AAAé", "====", "=", ".",
    ],
)  # fmt: skip
def test_other_spellings_are_refused(text: str) -> None:
    """Impossible lengths, trailing bits, padding, the plain alphabet, white space and high bytes are refused."""
    with pytest.raises(Malformed):
        base64url.decode(text)


def test_high_bytes_are_refused() -> None:
    """Bytes beyond ASCII are no base64url either."""
    with pytest.raises(Malformed):
        base64url.decode(b"AA\xffA")

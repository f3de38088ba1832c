"""base64url: one spelling for each byte string, and no other text is read."""

from __future__ import annotations

import base64
import re

from hypothesis import given
from hypothesis import strategies as st

from broker.formats import base64url
from tests.fuzz.mutations import damaged_text
from tests.fuzz.outcome import effort, taken

ALPHABET = re.compile(r"[A-Za-z0-9_-]*")


@effort(300)
@given(st.binary(max_size=100))
def test_bytes_come_back(data: bytes) -> None:
    """What is written is what the standard library writes, without padding, and is read back from text and bytes."""
    text = base64url.encode(data)
    assert text == base64.urlsafe_b64encode(data).decode().rstrip("=")
    assert base64url.decode(text) == base64url.decode(text.encode()) == data


@effort(500)
@given(
    st.binary(max_size=12).map(base64url.encode).flatmap(damaged_text)
    | st.text("AQgwBz09-_+/= \n.\x00é", max_size=9)
    | st.text(max_size=9)
)
def test_a_text_is_the_spelling_of_what_it_is_read_as_or_refused(text: str) -> None:
    """Read exactly when it is what would be written for those bytes."""
    canonical = ALPHABET.fullmatch(text) is not None and len(text) % 4 != 1
    padded = text + "=" * (-len(text) % 4)
    canonical = canonical and base64.urlsafe_b64encode(base64.urlsafe_b64decode(padded)).decode() == padded
    found = taken(lambda: (base64url.decode(text),))
    assert (found is not None) is canonical
    assert found is None or base64url.encode(found[0]) == text

"""The form of a token request is read as the standard library reads it, strictly."""

from __future__ import annotations

from urllib.parse import parse_qsl

from hypothesis import example, given
from hypothesis import strategies as st

from broker.tokens.request import _pairs

_TEXT = st.text(st.sampled_from("ab=&+%2fF0é;\x00 ~cC3A9"), max_size=40).filter(str.isascii)


def _standard(form: str) -> list[tuple[str, str]] | None:
    try:
        return parse_qsl(form, keep_blank_values=True, strict_parsing=bool(form), errors="strict", max_num_fields=40)
    except ValueError:
        return None


def _ours(form: str) -> list[tuple[str, str]] | None:
    try:
        return list(_pairs(form))
    except ValueError:
        return None


@given(_TEXT)
@example("&".join(["a=b"] * 40))
@example("&".join(["a=b"] * 41))
@example("a=%C3%A9&b=%ff")
@example("a=b&")
@example("a=b;c=d")
@example("=")
def test_a_form_is_read_as_the_standard_library_reads_it(form: str) -> None:
    """The same pairs in the same order, and a refusal where it refuses."""
    assert _ours(form) == _standard(form)

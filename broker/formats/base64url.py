"""base64url without padding, one spelling for each byte string.

Source: RFC 4648 §5 and §3.5 (trailing bits), RFC 7515 §2 (no padding).
"""

from __future__ import annotations

import binascii

from broker.errors import Malformed

_TO_URL = bytes.maketrans(b"+/", b"-_")
# The two letters that only plain base64 has, and the padding, become a byte that strict decoding refuses.
_FROM_URL = bytes.maketrans(b"-_+/=", b"+/!!!")
_PADDING = (b"", b"", b"==", b"=")
# With 2 (3) characters left over, the lowest 4 (2) bits of the last one carry nothing and must be zero.
_LAST = (b"", b"", b"AQgw", b"AEIMQUYcgkosw048")


def encode(data: bytes) -> str:
    """Writes bytes as base64url without padding."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL, b"=").decode("ascii")


def decode(text: str | bytes) -> bytes:
    """Reads base64url in its only canonical spelling. Fails closed.

    Args:
        text: the characters A-Z a-z 0-9 - _ and nothing else: no padding, no white space.

    Raises:
        Malformed: another character, an impossible length, or trailing bits that are not zero.
    """
    if isinstance(text, str):
        if not text.isascii():
            raise Malformed("The text is not base64url: it holds characters beyond ASCII.")
        text = text.encode("ascii")
    left_over = len(text) & 3
    if left_over == 1 or (left_over and text[-1] not in _LAST[left_over]):
        raise Malformed("The text is not canonical base64url: it was cut off or altered at its end.")
    try:
        return binascii.a2b_base64(text.translate(_FROM_URL) + _PADDING[left_over], strict_mode=True)
    except binascii.Error as error:
        raise Malformed("The text is not base64url without padding (RFC 4648 section 5).") from error

"""DPoP nonces from the server (RFC 9449 §8): a keyed digest of the minute, so that nothing is stored.

A nonce is good in its minute and the next one. It limits how long in advance a proof can be made.
"""

from __future__ import annotations

import hashlib
import hmac

from broker.errors import UseDpopNonce
from broker.formats import base64url

_PERIOD_S = 60


def current(key: bytes, now: float) -> str:
    """The nonce to hand out at `now`."""
    return _nonce(key, int(now // _PERIOD_S))


def check(nonce: str | None, key: bytes, now: float) -> None:
    """Takes a nonce of this minute or the one before; compares in constant time. Fails closed.

    Raises:
        UseDpopNonce: missing, old or not ours; carries the one to use.
    """
    minute = int(now // _PERIOD_S)
    good = [hmac.compare_digest((nonce or "").encode(), _nonce(key, m).encode()) for m in (minute, minute - 1)]
    if not any(good):
        raise UseDpopNonce(_nonce(key, minute))


def _nonce(key: bytes, minute: int) -> str:
    return base64url.encode(hmac.digest(key, f"dpop-nonce {minute}".encode(), hashlib.sha256)[:18])

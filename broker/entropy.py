"""The one source of randomness. Everywhere else it is an argument."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable

Entropy = Callable[[int], bytes]
"""Takes a number of bytes, gives that many unpredictable ones."""

system_entropy: Entropy = os.urandom


def new_id_in_order(entropy: Entropy, now: float) -> str:
    """An identifier that lies near those of the same time in an index: the millisecond in 6 bytes, then 10 random ones.

    Args:
        entropy: the random bytes.
        now: seconds since the epoch.

    Returns:
        22 characters of base64url, as `new_id`.
    """
    moment = int(now * 1000) & 0xFFFF_FFFF_FFFF
    return base64.urlsafe_b64encode(moment.to_bytes(6, "big") + entropy(10)).rstrip(b"=").decode("ascii")


def new_id(entropy: Entropy) -> str:
    """An identifier nobody can guess: 16 random bytes as 22 characters of base64url."""
    return base64.urlsafe_b64encode(entropy(16)).rstrip(b"=").decode("ascii")

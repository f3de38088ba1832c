"""The one source of randomness. Everywhere else it is an argument."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable

Entropy = Callable[[int], bytes]
"""Takes a number of bytes, gives that many unpredictable ones."""

system_entropy: Entropy = os.urandom


def new_id(entropy: Entropy) -> str:
    """An identifier nobody can guess: 16 random bytes as 22 characters of base64url."""
    return base64.urlsafe_b64encode(entropy(16)).rstrip(b"=").decode("ascii")

"""The bare work that a request cannot do without, measured beside the request itself."""

from __future__ import annotations

import time

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

_MESSAGE = b"m" * 400
_ES256 = ec.ECDSA(SHA256())
_TIMES = 2000


class Signatures:
    """ES256 with keys that are loaded, without any token around it."""

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())
        self._public = self._private.public_key()
        self._signature = self._private.sign(_MESSAGE, _ES256)

    def verify_us(self) -> float:
        """CPU microseconds of one verification."""
        begun = time.process_time()
        for _ in range(_TIMES):
            self._public.verify(self._signature, _MESSAGE, _ES256)
        return (time.process_time() - begun) / _TIMES * 1e6

    def sign_us(self) -> float:
        """CPU microseconds of one signature."""
        begun = time.process_time()
        for _ in range(_TIMES):
            self._private.sign(_MESSAGE, _ES256)
        return (time.process_time() - begun) / _TIMES * 1e6

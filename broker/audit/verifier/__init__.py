"""The verifier that every evidence package brings: one file that needs nothing of the broker."""

from __future__ import annotations

from importlib import resources


def text() -> bytes:
    """The file, as packages bring it."""
    return (resources.files(__name__) / "verify.py").read_bytes()

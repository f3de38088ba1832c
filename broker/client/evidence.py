"""Where evidence comes from: the platform's token for this workload, as it is now."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path

from broker.client.errors import EvidenceUnavailable

Evidence = Callable[[], str] | Callable[[], Awaitable[str]] | Path
"""A function, or a file that the platform keeps fresh. Asked at every renewal."""


def read_evidence(evidence: Evidence | None) -> str:
    """Asks for the evidence, for a thread.

    Raises:
        EvidenceUnavailable: whatever went wrong; the cause is chained.
    """
    found = _asked(evidence)
    if inspect.isawaitable(found):
        if inspect.iscoroutine(found):
            found.close()
        raise EvidenceUnavailable("The evidence comes from an async function: use an AsyncClient, or a plain function.")
    return _checked(found)


async def aread_evidence(evidence: Evidence | None) -> str:
    """The same for a task, which may also wait for an async function."""
    found = _asked(evidence)
    if inspect.isawaitable(found):
        try:
            found = await found
        except Exception as error:
            raise _unavailable(error) from error
    return _checked(found)


def _asked(evidence: Evidence | None) -> object:
    assert evidence is not None
    try:
        return evidence.read_text("utf-8") if isinstance(evidence, Path) else evidence()
    except Exception as error:
        raise _unavailable(error) from error


def _checked(found: object) -> str:
    text = found.strip() if isinstance(found, str) else ""
    if not text:
        raise EvidenceUnavailable("The evidence is empty. Check that the platform has issued a token to this workload.")
    return text


def _unavailable(error: Exception) -> EvidenceUnavailable:
    what = f"{type(error).__name__}: {error}" if isinstance(error, OSError) else type(error).__name__
    return EvidenceUnavailable(f"The evidence could not be read ({what}). Check where the platform puts it.")

"""Every known attack on signed tokens is refused by every verifier, with the verifier's own error."""

from __future__ import annotations

import pytest

from tests.formats.attacks import ATTACKS
from tests.formats.verifiers import VERIFIERS, Verifier


@pytest.mark.parametrize("verifier", VERIFIERS, ids=lambda v: v.name)
def test_the_honest_token_is_taken(verifier: Verifier) -> None:
    """What every attack starts from verifies, so that each refusal is the attack's own."""
    assert verifier.verify(verifier.token()) is not None


@pytest.mark.parametrize("verifier", VERIFIERS, ids=lambda v: v.name)
@pytest.mark.parametrize("name", ATTACKS)
def test_the_attack_is_refused(name: str, verifier: Verifier) -> None:
    """Every variant of the attack is refused with the verifier's own error and nothing else."""
    for text in ATTACKS[name](verifier):
        try:
            taken = verifier.verify(text)
        except verifier.refusal:
            continue
        pytest.fail(f"{verifier.name} took {text[:200]}: {taken}")

"""One error tree, one table that maps it to HTTP."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from broker import errors
from broker.errors import BrokerError, InvalidSignature, NotFound, ProofInvalid, Refused, VerificationFailed

ABSTRACT: frozenset[type[BrokerError]] = frozenset({BrokerError, VerificationFailed, Refused})
"""The inner nodes of the tree: nobody raises them, so they need no row."""


def classes() -> list[type[BrokerError]]:
    """Every class of the tree."""
    return [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, BrokerError)]


def without_a_row(tree: Iterable[type[BrokerError]], table: Iterable[object]) -> list[str]:
    """Names of the classes that neither have a row nor inherit one; a row for everything covers nothing."""
    rows = {each for each in table if each is not BrokerError}
    return sorted(each.__name__ for each in tree if each not in ABSTRACT and not rows.intersection(each.__mro__))


def test_every_error_has_a_row() -> None:
    """What the broker raises on purpose never reaches the caller as an unmapped 500."""
    table = importlib.import_module("broker.web.errors").TABLE
    assert without_a_row(classes(), table) == []


def test_every_row_belongs_to_the_tree() -> None:
    """The table maps classes of the broker's own tree and nothing else."""
    table = importlib.import_module("broker.web.errors").TABLE
    assert [row for row in table if not (isinstance(row, type) and issubclass(row, BrokerError))] == []


def test_an_error_without_a_row_is_found() -> None:
    """A row of its own or of a parent covers a class; the root's covers none."""
    tree = [BrokerError, VerificationFailed, InvalidSignature, ProofInvalid, NotFound]
    assert without_a_row(tree, {BrokerError: 500}) == ["InvalidSignature", "NotFound", "ProofInvalid"]
    assert without_a_row(tree, {InvalidSignature: 400}) == ["NotFound", "ProofInvalid"]
    assert without_a_row(tree, {VerificationFailed: 400, NotFound: 404}) == []

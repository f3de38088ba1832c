"""The policies that the package brings: vocabulary, policy files, and their cases.

An installed package has them in `broker/shipped_policies`, a checkout in `policies/` beside the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from broker.errors import ConfigurationError
from broker.policy.source import SCHEMA_NAME


@dataclass(frozen=True, slots=True)
class PolicyFiles:
    """A policy set's texts, not compiled.

    Args:
        schema: the vocabulary.
        files: policies by file name, `exchange.cedar`.
        cases: cases by file name, `exchange.yaml`.
    """

    schema: str
    files: Mapping[str, str]
    cases: Mapping[str, str]


def shipped() -> PolicyFiles:
    """Reads the shipped policies.

    Raises:
        ConfigurationError: the installation is incomplete.
    """
    installed = resources.files("broker") / "shipped_policies"
    checkout = Path(__file__).resolve().parents[2] / "policies"
    return read(installed if installed.is_dir() else checkout)


def read(folder: Traversable) -> PolicyFiles:
    """Reads a folder that is laid out as `policies/` is: a vocabulary, `*.cedar`, and `cases/*.yaml`.

    Raises:
        ConfigurationError: there is no vocabulary or no policy in it.
    """
    schema = folder / SCHEMA_NAME
    if not schema.is_file():
        raise ConfigurationError(f"{folder} has no {SCHEMA_NAME}; install the package again, or name another folder.")
    files = _texts(folder, ".cedar")
    if not files:
        raise ConfigurationError(f"{folder} has no .cedar file; install the package again, or name another folder.")
    return PolicyFiles(schema.read_text(encoding="utf-8"), files, _texts(folder / "cases", ".yaml"))


def _texts(folder: Traversable, ending: str) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    found = sorted(folder.iterdir(), key=lambda entry: entry.name)
    return {
        entry.name: entry.read_text(encoding="utf-8")
        for entry in found
        if entry.name.endswith(ending) and entry.is_file()
    }

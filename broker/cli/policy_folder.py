"""A policy set as a folder: `*.cedar`, `cases/*.yaml`, and `schema.cedarschema` where it has its own vocabulary."""

from __future__ import annotations

import re
from pathlib import Path

from broker.errors import ConfigurationError
from broker.policy.shipped import PolicyFiles, shipped
from broker.policy.source import SCHEMA_NAME

_POLICY_NAME = re.compile(r"[a-z0-9_-]{1,64}\.cedar")
_CASE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}\.yaml")


def read(folder: Path) -> tuple[PolicyFiles, bool]:
    """The set in a folder, and whether it brings its own vocabulary; the shipped one stands in where it does not.

    Raises:
        ConfigurationError: no policy in it, a case file that would be left out, or a file that is not UTF-8.
    """
    files = {path.name: _text(path) for path in sorted(folder.glob("*.cedar"))}
    if not files:
        raise ConfigurationError(f"{folder} has no .cedar file. Name a folder that is laid out as `policies/` is.")
    overlooked = [*folder.glob("*.yaml"), *folder.glob("*.yml"), *folder.glob("cases/*.yml")]
    if overlooked:
        raise ConfigurationError(f"{overlooked[0]} would not be run. Cases are files cases/*.yaml; move it there.")
    cases = {path.name: _text(path) for path in sorted(folder.glob("cases/*.yaml"))}
    schema = folder / SCHEMA_NAME
    own = schema.is_file()
    return PolicyFiles(_text(schema) if own else shipped().schema, files, cases), own


def write(folder: Path, source: PolicyFiles) -> None:
    """Writes a set into a new or empty folder.

    Raises:
        ConfigurationError: something is there already, or the set has a file whose name could lead elsewhere. Nothing
            is written then.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigurationError(f"{folder} is not empty. Name a new folder, so that no file of yours is overwritten.")
    for pattern, names in ((_POLICY_NAME, source.files), (_CASE_NAME, source.cases)):
        for name in names:
            if not pattern.fullmatch(name):
                raise ConfigurationError(f"The set has a file named {name!r}, which is not written to this machine.")
    (folder / "cases").mkdir(parents=True)
    (folder / SCHEMA_NAME).write_text(source.schema, encoding="utf-8")
    for name, text in source.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name, text in source.cases.items():
        (folder / "cases" / name).write_text(text, encoding="utf-8")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 at byte {error.start}.") from error

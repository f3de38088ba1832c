"""Manifests as people write them: YAML or JSON, one or several files, one or several documents.

What a manifest may say is the broker's to check. Here only: that the text means one thing, that it is nothing but what
JSON can say, and that no two documents describe the same thing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from broker.errors import Malformed, ManifestInvalid
from broker.formats import canonical_json

STANDARD_INPUT = Path("-")
_MAX_BYTES = 64 * 1024 * 1024
_MAX_DEPTH = 32


def read(files: Sequence[Path]) -> dict[str, Any]:
    """One manifest out of all files; `-` is standard input.

    Raises:
        ManifestInvalid: names the file and the place, and what to write instead.
    """
    merged: dict[str, Any] = {}
    seen: dict[tuple[str, str], str] = {}
    for file in files:
        where = "standard input" if file == STANDARD_INPUT else str(file)
        for document in parse(_text(file, where), where):
            _merge(merged, document, where, seen)
    if not merged:
        raise ManifestInvalid("The manifest is empty. It is a mapping with sections such as `agents`.")
    return merged


def parse(text: str, where: str) -> Iterator[dict[str, Any]]:
    """The documents of one text.

    Args:
        text: YAML, which may hold several documents, or JSON.
        where: what to call it when it is wrong.

    Raises:
        ManifestInvalid: as for `read`.
    """
    for document in _documents(text, where):
        if document is None:
            continue  # what stands before a first --- or after a last one
        if not isinstance(document, dict):
            raise ManifestInvalid(f"{where}: a manifest is a mapping with sections such as `agents`.")
        _check(document, where, "", _MAX_DEPTH)
        yield document


def write(document: Mapping[str, Any]) -> str:
    """A manifest as YAML, in the order given."""
    return str(yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=120))


def _text(file: Path, where: str) -> str:
    data = sys.stdin.buffer.read(_MAX_BYTES + 1) if file == STANDARD_INPUT else file.read_bytes()
    if len(data) > _MAX_BYTES:
        raise ManifestInvalid(f"{where}: larger than {_MAX_BYTES // 1024 // 1024} MiB. Split it into several files.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestInvalid(f"{where}: not UTF-8 at byte {error.start}.") from error


def _documents(text: str, where: str) -> Iterable[object]:
    if text.lstrip()[:1] in ("{", "["):
        try:
            return [canonical_json.parse(text.encode(), max_bytes=_MAX_BYTES, max_depth=_MAX_DEPTH)]
        except Malformed:
            pass  # YAML's flow style begins alike; its reader says what is wrong, and where
    try:
        return list(yaml.load_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise ManifestInvalid(f"{where}{place}: {error.problem or error.context}.") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ManifestInvalid(f"{where}: not YAML or JSON: {' '.join(str(error).split())}.") from error


def _merge(merged: dict[str, Any], document: dict[str, Any], where: str, seen: dict[tuple[str, str], str]) -> None:
    for section, items in document.items():
        for name in items if isinstance(items, dict) else ():
            if (section, name) in seen:
                first = seen[section, name]
                raise ManifestInvalid(f"{where}: {section}.{name} is described in {first} already. Keep one of them.")
            seen[section, name] = where
        if section not in merged:
            merged[section] = dict(items) if isinstance(items, dict) else items
        elif isinstance(items, dict) and isinstance(merged[section], dict):
            merged[section].update(items)
        else:
            raise ManifestInvalid(f"{where}: `{section}` stands in two manifests, so it must be a mapping in both.")


def _check(value: object, where: str, path: str, depth: int) -> None:
    """Refuses what JSON cannot say: YAML makes dates, bytes and sets of plain words, and takes numbers for names."""
    if value is None or isinstance(value, bool | int | str):
        return
    if isinstance(value, float) and value == value and value not in (float("inf"), float("-inf")):
        return
    if depth and isinstance(value, dict):
        for name, member in value.items():
            if not isinstance(name, str):
                raise ManifestInvalid(f"{where}: {path}{name!r} is no text; put it in quotes.")
            _check(member, where, f"{path}{name}.", depth - 1)
        return
    if depth and isinstance(value, list):
        for number, item in enumerate(value):
            _check(item, where, f"{path}{number}.", depth - 1)
        return
    raise ManifestInvalid(f"{where}: {path.rstrip('.')} is a {type(value).__name__}; put it in quotes if it is a text.")


class _Loader(yaml.SafeLoader):
    """YAML without a second meaning: no name twice in a mapping, no tags, no aliases: these can make a file explode."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            problem = "aliases (*name) are not taken; write the value out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.get_mark())
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs give it no types
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem="tags (!!name) are not taken", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in names:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands twice here", problem_mark=key.start_mark)
            names.add(str(key.value))
        return super().construct_mapping(node, deep=deep)

"""Manifests as text: what is taken, and where the mistake is in what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker.cli import manifest_files
from broker.errors import ManifestInvalid


def read(folder: Path, *texts: str) -> dict[str, Any]:
    """Reads each text as a file of its own."""
    files = []
    for number, text in enumerate(texts):
        files.append(folder / f"{number}.yaml")
        files[-1].write_text(text)
    return manifest_files.read(files)


@pytest.mark.parametrize(
    "texts",
    [
        ("agents: {a: {x: 1}, b: {}}",),
        ("agents: {a: {x: 1}}", "agents: {b: {}}"),
        ("---\nagents: {a: {x: 1}}\n---\nagents: {b: {}}\n---\n",),
        ('{"agents":\t{"a": {"x": 1}, "b": {}}}',),
        ("{agents: {a: {x: 1}, b: {}}}",),
        ("\ufeffagents: {a: {x: 1}, b: {}}",),
    ],
)
def test_however_it_is_written_it_means_the_same(tmp_path: Path, texts: tuple[str, ...]) -> None:
    """YAML in blocks or in flow, JSON with tabs, several documents or files, with or without a byte order mark."""
    assert read(tmp_path, *texts) == {"agents": {"a": {"x": 1}, "b": {}}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agents:\n  a: {}\n  a: {}\n", "line 3, column 3: 'a' stands twice here"),
        ("agents: {}\nagents: {}\n", "line 2, column 1: 'agents' stands twice here"),
        ('{"agents": {"a": 1, "a": 2}}', "'a' stands twice here"),
        ("agents: [\n", "line 2"),
        ("a: &x {}\nb: *x\n", "aliases"),
        ("agents: {a: {when: 2026-11-23}}", "agents.a.when is a date"),
        ("agents: {a: {b: .nan}}", "agents.a.b is a float"),
        ("agents: {7: {}}", "agents.7 is no text"),
        ("agents: !!python/object:os.system {}", "tags (!!name) are not taken"),
        ("agents: {a: {b: !!bool x}}", "line 1, column 17: tags (!!name) are not taken"),
        ("agents: {a: {b: !!int ''}}", "tags (!!name) are not taken"),
        ("just words", "a manifest is a mapping"),
        ("- a", "a manifest is a mapping"),
        ("", "The manifest is empty"),
        ("[" * 100_000, "YAML"),
    ],
)
def test_the_place_of_a_mistake_is_named(tmp_path: Path, text: str, said: str) -> None:
    """Nothing ambiguous gets through: the later of two names does not win silently, and no date becomes a text."""
    with pytest.raises(ManifestInvalid) as refusal:
        read(tmp_path, text)
    assert said in refusal.value.detail


def test_one_thing_described_twice_is_refused(tmp_path: Path) -> None:
    """Between files, and between documents of one file; both places are named."""
    with pytest.raises(ManifestInvalid) as refusal:
        read(tmp_path, "agents: {a: {}}", "agents: {a: {}}")
    assert "agents.a is described in" in refusal.value.detail
    assert str(tmp_path / "0.yaml") in refusal.value.detail
    assert str(tmp_path / "1.yaml") in refusal.value.detail
    with pytest.raises(ManifestInvalid):
        read(tmp_path, "agents: {a: {}}\n---\nagents: {a: {}}")


def test_sections_that_are_no_mappings_do_not_merge(tmp_path: Path) -> None:
    """Alone, the broker says what is wrong with one; with a second there is no telling what was meant."""
    assert read(tmp_path, "agents: 1") == {"agents": 1}
    with pytest.raises(ManifestInvalid, match="must be a mapping in both"):
        read(tmp_path, "agents: 1", "agents: {}")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    """With the byte that is none."""
    (tmp_path / "m").write_bytes(b"agents: \xff")
    with pytest.raises(ManifestInvalid, match="not UTF-8 at byte 8"):
        manifest_files.read([tmp_path / "m"])

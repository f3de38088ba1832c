"""How the figures get into `docs/performance.md`."""

from __future__ import annotations

import pytest

from tests.bench import results
from tests.bench.document import DOCUMENT, figures, filled
from tests.bench.results import Result

_TEXT = "before\n<!-- results -->\nold\n<!-- /results -->\nafter\n"


def test_a_section_is_replaced_and_nothing_else() -> None:
    """However often it is filled in."""
    once = filled(_TEXT, "results", "new")
    assert once == "before\n<!-- results -->\n\nnew\n\n<!-- /results -->\nafter\n"
    assert filled(once, "results", "new") == once


def test_a_section_that_is_missing_is_refused() -> None:
    """Figures are not lost silently."""
    with pytest.raises(ValueError, match="no section"):
        filled(_TEXT, "profile", "new")


@pytest.mark.parametrize("section", ["results", "profile"])
def test_the_document_has_the_sections(section: str) -> None:
    """Both of them can be filled in again."""
    assert "new" in filled(DOCUMENT.read_text("utf-8"), section, "new")


def test_the_figures_come_back_from_the_file_as_they_went_in() -> None:
    """Machine first, then the table of the results."""
    machine = {"cores": 2, "cpu": "C", "memory_gb": 3, "kernel": "6", "file_system": "ext4", "python": "3.11"}
    found = [Result("exchange.cpu_ms", 0.5, "ms", "lower", 0.2, 0.7)]
    told = figures(results.document(found, {**machine, "load_before": [0.5, 0.1, 0.1]}, "abc"))
    assert told.startswith("On 2 cores of C, 3 GB, Linux 6, ext4, Python 3.11, load before 0.5.")
    assert told.endswith(results.table(found))

"""An export's memory does not grow with the log."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GROWTH_KIB = 32 * 1024


@pytest.mark.sqlite
def test_ten_times_the_records_take_no_more_memory(tmp_path: Path) -> None:
    """Pages, lines, events and row groups are let go of: 100,000 records peak where 10,000 do."""
    peaks = {}
    for count in (10_000, 100_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "tests.audit.export_memory", str(folder), str(count)],
            cwd=ROOT,
            env={"PATH": os.defpath},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        seen, peaks[count] = map(int, done.stdout.split())
        assert seen == count
    assert peaks[100_000] < peaks[10_000] + GROWTH_KIB

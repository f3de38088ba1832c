"""Vectors that others wrote, in the folder that the variable BROKER_VECTORS names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def vectors(name: str) -> Path:
    """The file or folder `name` among the vectors; the test is visibly skipped where there are none."""
    folder = os.environ.get("BROKER_VECTORS", "")
    if not folder:
        pytest.skip("BROKER_VECTORS names no folder of vectors")
    found = Path(folder) / name
    assert found.exists(), f"{found} is missing: BROKER_VECTORS must name the folder that holds {name}"
    return found

"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from pathlib import Path

import psutil

_NO_DISK = frozenset({"tmpfs", "ramfs"})
_ROOT = Path(__file__).resolve().parents[2]


def describe() -> dict[str, object]:
    """The machine, and how busy it was before anything began."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1024**3, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_system": file_system(disk_folder()),
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def commit() -> str:
    """The commit that is checked out, with "+" when files differ from it; empty where git cannot say."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def disk_folder() -> Path:
    """Where temporary folders are made: a synced write must reach a disk, so never a file system in memory."""
    for folder in (Path(tempfile.gettempdir()), Path.cwd()):
        if file_system(folder) not in _NO_DISK:
            return folder
    raise RuntimeError("the folder for temporary files and this one are both in memory; set TMPDIR to a disk's folder")


def file_system(folder: Path) -> str:
    """The kind of file system that holds a folder, such as "ext4"."""
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    resolved = folder.resolve()
    return next((mounts[each] for each in (resolved, *resolved.parents) if each in mounts), "unknown")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()

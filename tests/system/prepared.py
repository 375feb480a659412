"""Made once, used by many: files and directories under ``.cache``.

What is being made lies beside its final place under a name of its own and is
renamed into it when complete, under a lock. So an artefact is whole or absent,
whoever is interrupted, and two callers that need it at once make it once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
"""The checkout."""

CACHE = TOP / ".cache"
"""Everything in it can be deleted at any time; it is made again when needed."""


def prepared_directory(target: Path, make: Callable[[Path], None]) -> Path:
    """Return ``target``; if it does not exist, ``make(DIR)`` fills it first."""
    if target.is_dir():
        return target
    with _locked(target):
        if not target.is_dir():
            scratch = _scratch(target)
            scratch.mkdir()
            make(scratch)
            scratch.rename(target)
    return target


def prepared_file(target: Path, key: str, make: Callable[[Path], None]) -> Path:
    """Return ``target``; ``make(FILE)`` writes it first if it was not made with ``key``.

    ``key`` stands for all inputs, see :func:`key_of`. Whoever has the old file
    open keeps it whole.
    """
    stamp = target.with_name(f".{target.name}.key")
    if _is_current(target, stamp, key):
        return target
    with _locked(target):
        if not _is_current(target, stamp, key):
            scratch = _scratch(target)
            make(scratch)
            stamp.unlink(missing_ok=True)
            scratch.rename(target)
            stamp.write_text(key)
    return target


def key_of(*inputs: Path | str) -> str:
    """A digest over texts, small files (by content) and large ones (by size and time)."""
    digest = hashlib.sha256()
    for item in inputs:
        if isinstance(item, str):
            data = item.encode()
        else:
            status = item.stat()
            data = f"{item} {status.st_size} {status.st_mtime_ns}".encode()
            if status.st_size < 1 << 18:
                data = item.read_bytes()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _is_current(target: Path, stamp: Path, key: str) -> bool:
    try:
        return stamp.read_text() == key and target.exists()
    except FileNotFoundError:
        return False


def _scratch(target: Path) -> Path:
    """A free name beside ``target``, without what an interrupted caller left there."""
    scratch = target.with_name(f".{target.name}.new")
    if scratch.is_dir():
        shutil.rmtree(scratch)
    scratch.unlink(missing_ok=True)
    return scratch


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    target.parent.mkdir(parents=True, exist_ok=True)
    _ignored_by_git()
    lock = os.open(target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _ignored_by_git() -> None:
    """The cache says itself that it is none of git's business."""
    CACHE.mkdir(exist_ok=True)
    ignore = CACHE / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")

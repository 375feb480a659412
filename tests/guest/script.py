"""Appends a script, and what it needs, to an initramfs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.system.newc import Newc


def append(initrd: Path, text: str, out: Path, files: Mapping[str, bytes], archives: Iterable[Path]) -> Path:
    """Concatenate ``initrd``, ``archives`` and one with ``/script`` and ``files``."""
    with out.open("wb") as target:
        for archive in (initrd, *archives):
            with archive.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
            # An archive starts at a multiple of 4, and others' may end anywhere.
            target.write(bytes(-target.tell() % 512))
        newc = Newc(target)
        newc.file("script", text.encode(), 0o755)
        for name, data in files.items():
            newc.file(name, data, 0o755)
        newc.close()
    return out

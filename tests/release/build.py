"""Builds a distribution's sdist, and from what is in it alone its wheel.

python tests/release/build.py SOURCE SDISTS WHEELS

Prints the names of both. SOURCE is written in: give a copy. Nothing is fetched: what the build needs is installed.
"""

from __future__ import annotations

import importlib
import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

build_meta: Any = importlib.import_module("setuptools.build_meta")


def build(source: Path, sdists: Path, wheels: Path) -> tuple[str, str]:
    sdists, wheels = sdists.resolve(), wheels.resolve()
    os.chdir(source)
    sdist = build_meta.build_sdist(str(sdists))
    with tempfile.TemporaryDirectory() as empty:
        with tarfile.open(sdists / sdist) as archive:
            # Debian 12's Python has no filters yet; later ones want to be told of one.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(empty)
        os.chdir(Path(empty, sdist.removesuffix(".tar.gz")))
        return sdist, build_meta.build_wheel(str(wheels))


if __name__ == "__main__":
    print(*build(*map(Path, sys.argv[1:])), sep="\n")

"""pyvmm as a user has it: wheels of the core and of all plugins, installed by pip into an environment of their own.

The checkout's own environment has them editable, one directory each on Python's path, through all of which a start
looks: it takes a fifth longer.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.benchmarks.harness import BenchError
from tests.system.prepared import CACHE, TOP, key_of

DIRECTORY: Final = CACHE / "benchmarks" / "installed"
COMMAND: Final = DIRECTORY / "bin" / "pyvmm"

_LEFT_OUT: Final = shutil.ignore_patterns("__pycache__", "tests", "build", "*.egg-info", "*.so")


def prepare() -> None:
    """Install it, unless what is installed is of the same sources."""
    packages = [TOP / "core", *sorted(TOP.glob("plugins/*"))]
    files = [file for package in packages for file in sorted(package.rglob("*")) if _is_source(file, package)]
    stamp, key = DIRECTORY / "key", key_of(sys.version, *files)
    if stamp.exists() and stamp.read_text() == key:
        return
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        copies, wheels = [Path(scratch, package.name) for package in packages], Path(scratch, "wheels")
        for package, copy in zip(packages, copies, strict=True):
            shutil.copytree(package, copy, ignore=_LEFT_OUT)
        _pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, *copies)
        _run(sys._base_executable, "-m", "venv", DIRECTORY)  # type: ignore[attr-defined]
        python = DIRECTORY / "bin" / "python"
        _pip(python, "install", "--upgrade", "pip")  # an old one's scripts import re, and with it a tenth of a start
        _pip(python, "install", *wheels.glob("*.whl"))
    stamp.write_text(key)


def _is_source(file: Path, package: Path) -> bool:
    left_out = _LEFT_OUT(str(package), list(file.relative_to(package).parts))
    return file.is_file() and not left_out


def _pip(python: Path | str, command: str, *arguments: Path | str) -> None:
    _run(python, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *arguments)


def _run(*command: Path | str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise BenchError(f"{' '.join(map(str, command))}: {(result.stdout + result.stderr).strip()[-2000:]}")

"""The tutorial of the first device, done as it stands there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from pyvmm.testing.waiting import PATIENCE

from tests.documentation import DOCS, commands, files
from tests.system.prepared import TOP

PAGE: Final = DOCS / "tutorial/first-device.md"
KIND: Final = "lighthouse"
BIN: Final = TOP / ".venv/bin"


def run(*command: str, cwd: Path, path: Path | None = None) -> str:
    """Run ``command`` with the commands of the environment, which must succeed; ``path`` is added to Python's path.
    What it printed."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=5 * PATIENCE, check=False
    )
    assert result.returncode == 0, f"{command}:\n{result.stdout}{result.stderr}"
    return result.stdout


def install(target: Path, *projects: Path) -> None:
    """Install packages into a directory of its own, as pip does it in an environment: without the network."""
    options = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation")
    command = (sys.executable, "-m", "pip", "install", *options, "--no-compile", "--target", str(target))
    run(*command, *map(str, projects), cwd=projects[0])


def tutorial_files() -> dict[str, str]:
    """The files that the tutorial has its reader write."""
    return files(PAGE)


def follow(directory: Path) -> Path:
    """Make the tutorial's package in ``directory``: where it is."""
    new_device = next(line for line in commands(PAGE) if "new-device" in line)
    run(*new_device.split(), cwd=directory)
    project = directory / f"pyvmm-{KIND}"
    write_over(project)
    return project


def write_over(project: Path) -> None:
    """Write the tutorial's files into the package that it starts from."""
    for name, text in tutorial_files().items():
        (project / name).write_text(text, encoding="utf-8")

"""What a start imports: nine tenths of it are imports, so nothing comes in unnoticed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pyvmm.testing.waiting import PATIENCE

from tests.test_bad_input import PYVMM, disk, kernel, needs_kvm

__all__ = ["disk", "kernel"]

HEAVY = {
    *("typing", "re", "enum", "inspect", "dataclasses", "logging", "pathlib", "traceback", "pluggy", "click"),
    *("threading", "collections", "functools", "contextlib", "socket", "signal", "importlib"),
}
"""Each takes between 1 and 20 ms, with what it imports in turn."""


RUN = """
import os, sys
from pyvmm.cli import program
end = os._exit
def tell(status):
    with open(f"WHERE/{os.getpid()}", "w") as file:
        print(*sys.modules, file=file)
    end(status)
os._exit = tell
program.script()
"""
"""The command, of which each process says at its end what it has imported."""


def imported(where: Path, *arguments: str, processes: int = 1) -> set[str]:
    """The modules that the command's processes have at their ends."""
    run = RUN.replace("WHERE", str(where))
    command = [sys.executable, "-c", run, *arguments]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=True)
    each = [set(file.read_text().split()) for file in where.iterdir()]
    assert len(each) == processes
    assert any("pyvmm.machine.machine" in names for names in each)
    return set().union(*each)


@needs_kvm
def test_a_machine_with_a_serial_port_imports_nothing_heavy(
    kernel: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert not HEAVY & imported(tmp_path_factory.mktemp("said"), "--kernel", kernel)


@needs_kvm
@pytest.mark.parametrize(("where", "processes"), [("on", 2), ("off", 1)])
def test_nor_does_one_with_a_disk(
    kernel: str, disk: str, where: str, processes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    said = tmp_path_factory.mktemp("said")
    command = ["--kernel", kernel, "--device", f"block:{disk},process={where}"]
    assert not HEAVY & imported(said, *command, processes=processes)


@needs_kvm
def test_a_command_line_that_is_wrong_may_take_its_time(kernel: str, tmp_path: Path) -> None:
    """That the list above is of what would be seen."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", str(PYVMM), "--kernel", kernel, "--nonsense"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert result.returncode == 2
    assert all(re.search(rf"\| +{name}$", result.stderr, re.M) for name in ("click", "typing", "inspect", "enum", "re"))

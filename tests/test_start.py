"""What a start imports: nine tenths of it are imports, so nothing comes in unnoticed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_bad_input import PYVMM, disk, kernel, needs_kvm

__all__ = ["disk", "kernel"]

HEAVY = {
    *("typing", "re", "enum", "inspect", "dataclasses", "logging", "pathlib", "traceback", "pluggy", "click"),
    *("threading", "collections", "functools", "contextlib", "socket", "signal", "importlib"),
}
"""Each takes between 1 and 20 ms, with what it imports in turn."""


RUN = """
import os, sys
from pyvmm import cli
parent, end = os.getpid(), os._exit
def tell(status):
    if os.getpid() == parent:
        print(*sys.modules, file=sys.stderr, flush=True)
    end(status)
os._exit = tell
cli.script()
"""
"""The command, which prints at its end what has been imported."""


def imported(*arguments: str) -> set[str]:
    """The modules that the command's own process has at its end."""
    command = [sys.executable, "-c", RUN, *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=True)
    names = set(done.stderr.split())
    assert "pyvmm.machine" in names
    return names


@needs_kvm
def test_a_machine_with_a_serial_port_imports_nothing_heavy(kernel: str) -> None:
    assert not HEAVY & imported("--kernel", kernel)


@needs_kvm
@pytest.mark.parametrize("where", ["on", "off"])
def test_nor_does_one_with_a_disk(kernel: str, disk: str, where: str) -> None:
    assert not HEAVY & imported("--kernel", kernel, "--device", f"block:{disk},process={where}")


@needs_kvm
def test_a_command_line_that_is_wrong_may_take_its_time(kernel: str, tmp_path: Path) -> None:
    """That the list above is of what would be seen."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", str(PYVMM), "--kernel", kernel, "--nonsense"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 2
    assert all(re.search(rf"\| +{name}$", result.stderr, re.M) for name in ("click", "typing", "inspect", "enum", "re"))

"""The whole of pyvmm on a terminal, with a bare-metal guest."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyvmm.testing.waiting import PATIENCE

from plugins.serial.tests.terminal import Terminal
from tests.test_bad_input import PYVMM

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/kvm"), reason="no /dev/kvm")

RUN = [str(PYVMM), "--memory", "16M"]


def endless_program(path: Path) -> str:
    """A kernel that prints ``g`` and halts for ever."""
    code = bytes.fromhex("66baf803 b067 ee fa f4 ebfd")
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 1 << 20, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 7, 0x1000, 1 << 20, 1 << 20, len(code), len(code), 0x1000)
    path.write_bytes((header + segment).ljust(0x1000, b"\0") + code)
    return str(path)


@pytest.fixture
def kernel(tmp_path: Path) -> str:
    return endless_program(tmp_path / "kernel")


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    terminals: list[Terminal] = []
    yield terminals
    for terminal in terminals:
        terminal.close()


@pytest.mark.parametrize("name", ["QUIT", "ABRT", "SEGV", "TERM", "HUP", "USR1"])
def test_signal_restores_the_terminal_and_keeps_its_meaning(name: str, kernel: str, terminals: list[Terminal]) -> None:
    terminals.append(terminal := Terminal(kernel, program=[*RUN, "--kernel"]))
    terminal.expect(b"g")
    assert terminal.is_raw
    number = signal.Signals[f"SIG{name}"]

    terminal.process.send_signal(number)

    assert terminal.process.wait(PATIENCE) == (128 + number if name in ("TERM", "HUP") else -number)
    assert not terminal.is_raw


def test_terminal_that_hangs_up_ends_the_machine(kernel: str, terminals: list[Terminal]) -> None:
    terminals.append(terminal := Terminal(kernel, program=[*RUN, "--kernel"]))
    terminal.expect(b"g")

    terminal.hang_up()

    assert terminal.process.wait(PATIENCE) == 128 + signal.SIGHUP


def test_message_does_not_stop_a_machine_in_the_background(kernel: str, terminals: list[Terminal]) -> None:
    command = f"{PYVMM} --memory 16M --device serial:pty --kernel {kernel}"
    script = f"set -m; stty tostop; {command} & read key; kill %%; wait %%; echo ended with $?; kill -9 %%"
    terminals.append(terminal := Terminal(script, program=["bash", "-c"]))
    terminal.expect(b"serial0: /dev/pts/")

    terminal.type(b"\r")

    terminal.expect(b"ended with 143")

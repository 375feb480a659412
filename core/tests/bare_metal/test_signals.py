"""Signals to a process whose vCPUs are busy, halted, or were never started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pyvmm.testing import waiting

from core.tests.distributions import SitePackages

ROOT = Path(__file__).parents[3]
PATIENCE = 2 * waiting.PATIENCE
"""Seconds after which a child will never end. One whose machine is not stopped by the signal, but by its watchdog, has
another status."""

SPIN = "END_SPIN"
READY = """

    from pyvmm.bus import BusDevice, BusRange, Placement
    from pyvmm.plugin import DeviceKind, hookimpl, options


    @options
    class Options:
        pass


    class Ready(BusDevice):
        placements = (Placement(ports=BusRange(0x510, 4)),)

        def __init__(self, options):
            pass

        def write(self, offset, data):
            print("ready", flush=True)


    @hookimpl
    def pyvmm_device_kinds():
        return [DeviceKind("ready", Options, Ready, help="says that the guest has started", process=False)]
"""
"""A plugin that takes the program's word."""


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a child, and returns when it has said that it is ready; none outlives the test."""
    with ExitStack() as stack:

        def start(arguments: list[str], **more: Any) -> subprocess.Popen[bytes]:
            more |= {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            child: subprocess.Popen[bytes] = subprocess.Popen([sys.executable, *arguments], **more)
            stack.enter_context(child)
            stack.callback(child.kill)
            assert child.stdout is not None
            line = child.stdout.readline()
            assert line == b"ready\n", (line, child.communicate(timeout=PATIENCE))
            return child

        yield start


def end(child: subprocess.Popen[bytes], number: int) -> tuple[int, str]:
    """Exit status and stderr of a child that gets a signal."""
    child.send_signal(number)
    _, errors = child.communicate(timeout=PATIENCE)
    return child.returncode, errors.decode()


@pytest.mark.parametrize("cpus", [1, 2, 4])
@pytest.mark.parametrize("how", [SPIN, "END_HLT", "END_EXITS"])
def test_sigterm_ends_a_machine_whatever_its_vcpus_are_at(
    program: Callable[..., Path], start: Start, how: str, cpus: int
) -> None:
    child = start(["-m", "core.tests.bare_metal.child", str(program("end.c", how)), str(cpus), "handlers"])
    assert end(child, signal.SIGTERM) == (128 + signal.SIGTERM, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("cpus", [1, 2])
def test_the_command_ends_at_a_signal(
    program: Callable[..., Path], start: Start, site_packages: SitePackages, number: int, cpus: int
) -> None:
    site_packages.install("pyvmm-ready", {"ready": "pyvmm_ready"}, {"pyvmm_ready": READY})
    kernel = str(program("end.c", SPIN))
    child = start(
        ["-m", "pyvmm", "--kernel", kernel, "--cpus", str(cpus), "--memory", "32M", "--device", "ready"],
        env={**os.environ, "PYTHONPATH": str(site_packages.path)},
        stdin=subprocess.DEVNULL,
    )
    assert end(child, number) == (128 + number, "")


def test_the_threads_of_vcpus_are_known_by_name(program: Callable[..., Path], start: Start) -> None:
    child = start(["-m", "core.tests.bare_metal.child", str(program("end.c", SPIN)), "2", "handlers"])

    def names() -> set[str]:
        return {path.read_text().strip() for path in Path(f"/proc/{child.pid}/task").glob("*/comm")}

    waiting.wait_until(lambda: names() >= {"vcpu0", "vcpu1"}, names)
    end(child, signal.SIGTERM)


def test_ctrl_c_in_a_program_that_uses_a_machine_is_a_keyboard_interrupt(
    program: Callable[..., Path], start: Start
) -> None:
    child = start(["-m", "core.tests.bare_metal.child", str(program("end.c", SPIN)), "2", "plain"])
    status, errors = end(child, signal.SIGINT)
    assert status == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_a_process_that_was_started_with_all_signals_blocked_can_stop_its_vcpus(
    program: Callable[..., Path], start: Start
) -> None:
    everything = signal.valid_signals() - {signal.SIGTERM}
    child = start(
        ["-m", "core.tests.bare_metal.child", str(program("end.c", SPIN)), "2", "handlers"],
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, everything),
    )
    assert end(child, signal.SIGTERM) == (128 + signal.SIGTERM, "")


def test_signals_that_come_all_the_time_do_not_disturb_a_run(program: Callable[..., Path], start: Start) -> None:
    child = start(["-m", "core.tests.bare_metal.child", str(program("end.c", "END_EXITS")), "2", "handlers"])
    for _ in range(200):
        child.send_signal(signal.SIGCONT)
    assert child.poll() is None
    assert end(child, signal.SIGTERM) == (128 + signal.SIGTERM, "")

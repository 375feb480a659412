"""How a run ends: by the guest's wish, by its crash, by a stop while its vCPUs are at whatever they are at."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pyvmm.bus import BusDevice, BusRange, Placement
from pyvmm.exit_reason import End, ExitReason
from pyvmm.startup.threads import begin
from pyvmm.testing import waiting
from pyvmm.testing.bare_metal import BareMachine

from core.tests.os_threads import wait_until

levels = pytest.mark.parametrize("user", [False, True], ids=["level 0", "level 3"])


@levels
@pytest.mark.parametrize(
    ("how", "end"), [("POWEROFF", End.POWEROFF), ("RESET_REGISTER", End.REBOOT), ("KEYBOARD", End.REBOOT)]
)
def test_the_guest_ends_its_run(program: Callable[..., Path], how: str, end: End, user: bool) -> None:
    with BareMachine(program("end.c", f"END_{how}"), user=user) as machine:
        reason = machine.run()
    assert (reason.end, reason.status) == (end, 0)


def test_a_triple_fault_is_a_crash_with_registers(program: Callable[..., Path]) -> None:
    with BareMachine(program("end.c", "END_TRIPLE_FAULT")) as machine:
        reason = machine.run()
    assert (reason.end, reason.status) == (End.CRASH, 3)
    assert reason.detail.startswith("triple fault\nvCPU 0:\n")
    assert "rbx 1234567890abcdef" in reason.detail
    assert "rip 0000000000201" in reason.detail


def test_what_kvm_cannot_do_is_a_crash_with_registers(program: Callable[..., Path]) -> None:
    with BareMachine(program("end.c", "END_NOWHERE")) as machine:
        reason = machine.run()
    assert reason.status == 3
    assert "rip 00000000d0000000" in reason.detail


@pytest.mark.parametrize("cpus", [1, 2, 4])
@pytest.mark.parametrize(
    ("how", "user"),
    [("SPIN", False), ("SPIN", True), ("HLT", False), ("EXITS", False), ("EXITS", True)],
    ids=["busy at level 0", "busy at level 3", "halted", "in exits at level 0", "in exits at level 3"],
)
def test_a_stop_ends_all_vcpus_at_once(program: Callable[..., Path], how: str, user: bool, cpus: int) -> None:
    with BareMachine(program("end.c", f"END_{how}"), cpus=cpus, user=user, all_cpus=True) as machine:

        def stop() -> None:
            machine.report.wait(cpus)
            machine.stop_by_user()

        stopper = threading.Thread(target=stop)
        stopper.start()
        reason = machine.run()
        stopper.join()
        assert sorted(machine.report.words) == list(range(cpus))
    assert reason.end is End.QUIT


@pytest.mark.parametrize("cpus", [2, 4, 8])
def test_cpus_that_were_never_started_do_not_hold_up_the_end(program: Callable[..., Path], cpus: int) -> None:
    with BareMachine(program("end.c", "END_POWEROFF"), cpus=cpus) as machine:
        assert machine.run().end is End.POWEROFF


def test_a_stop_before_the_run_ends_it_at_once(program: Callable[..., Path]) -> None:
    with BareMachine(program("end.c", "END_SPIN"), cpus=2, all_cpus=True) as machine:
        machine.stop_by_user()
        assert machine.run().end is End.QUIT


def test_the_first_reason_counts(program: Callable[..., Path]) -> None:
    with BareMachine(program("end.c", "END_SPIN")) as machine:
        machine.stop(ExitReason(End.SIGNAL, signal=15))
        machine.stop(ExitReason(End.CRASH))
        reason = machine.run()
    assert reason.status == 128 + 15


@pytest.mark.parametrize("error", [RuntimeError("a bug"), SystemExit(5), KeyboardInterrupt()])
def test_an_exception_on_the_event_loop_ends_all_vcpus_and_is_raised(
    program: Callable[..., Path], error: BaseException
) -> None:
    with BareMachine(program("end.c", "END_EXITS"), cpus=2, all_cpus=True) as machine:

        def fail() -> None:
            raise error

        machine.loop.post(lambda: machine.loop.post(fail))
        with pytest.raises(type(error)):
            machine.run()
        wait_until("vcpu", there=False)


class Port(BusDevice):
    """Where END_EXITS reads."""

    placements = (Placement(ports=BusRange(0x80, 1)),)

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def read(self, offset: int, data: memoryview) -> None:
        raise self.error

    def forget(self) -> None:
        """Let go of the traceback, which holds the access's data and so the vCPU's."""
        self.error.__traceback__ = None


def test_a_device_that_ends_its_thread_ends_the_machine(program: Callable[..., Path]) -> None:
    with BareMachine(program("end.c", "END_EXITS"), cpus=2, all_cpus=True) as machine:
        port = Port(SystemExit(7))
        machine.add_device(port, "port")
        reason = machine.run()
        port.forget()
    assert (reason.end, reason.status) == (End.HOST_FAILURE, 1)
    assert "SystemExit: 7" in reason.detail


def test_a_device_that_raises_does_not_end_the_machine(
    program: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    with BareMachine(program("end.c", "END_EXITS")) as machine:
        port = Port(ValueError("a bug in a device"))
        machine.add_device(port, "port")

        def stop() -> None:
            waiting.wait_until(lambda: caplog.messages)
            machine.stop_by_user()

        stopper = threading.Thread(target=stop)
        machine.loop.post(stopper.start)
        assert machine.run().end is End.QUIT
        stopper.join()
    (message,) = caplog.messages
    assert "port: the device failed" in message
    port.forget()
    caplog.clear()


def test_threads_that_cannot_be_started_end_the_run(
    program: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(function: Callable[[], object], name: str) -> Callable[[], None]:
        if name == "vcpu1":
            raise RuntimeError("can't start new thread")
        return begin(function, name)

    monkeypatch.setattr("pyvmm.machine.machine.begin", fail)
    with BareMachine(program("end.c", "END_SPIN"), cpus=2, all_cpus=True) as machine:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            machine.run()
        wait_until("vcpu", there=False)


def test_a_machine_leaves_no_descriptor_and_no_thread(program: Callable[..., Path]) -> None:
    kernel = program("end.c", "END_POWEROFF")
    gc.collect()  # other tests' exceptions hold on to their machines
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with BareMachine(kernel, cpus=2) as machine:
            machine.run()
    assert len(os.listdir("/proc/self/fd")) == before
    wait_until("vcpu", there=False)
    wait_until("memory", there=False)

"""A guest on a real vCPU drives a device's queue: kicks by ioeventfd, interrupts by irqfd, everything in between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pyvmm.exit_reason import End
from pyvmm.testing.bare_metal import BareMachine
from pyvmm.testing.mmio_driver import ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK
from pyvmm.x86_64.layout import IRQ_BASE

from core.tests.virtio.probe import Probe

EVENT_IDX, INDIRECT, SLEEP, QUIET = 1, 2, 4, 8
WORDS, ANSWERS = 32, 16
UP = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK

ring_features = pytest.mark.parametrize(
    "features", [0, EVENT_IDX, INDIRECT, EVENT_IDX | INDIRECT], ids=["plain", "event_idx", "indirect", "both"]
)


def drive(machine: BareMachine, requests: int, depth: int, flags: int) -> list[list[int]]:
    """Run; for each CPU: requests answered, wrong answers, interrupts, kicks, status."""
    cpus = len(machine.vcpus) if machine.all_cpus else 1
    words: list[int] = []
    for cpu in range(cpus):
        window = machine.add_device(Probe(), f"probe{cpu}")
        words += [requests, depth, flags, window, IRQ_BASE + cpu, cpus, *[0] * (WORDS - 6)]
    machine.set_parameters(*words)
    assert machine.run().end is End.POWEROFF
    return [machine.answers(5, WORDS * cpu + ANSWERS) for cpu in range(cpus)]


@ring_features
@pytest.mark.parametrize("depth", [1, 32])
@pytest.mark.parametrize("quiet", [0, QUIET], ids=["interrupts", "quiet"])
def test_thousands_of_requests_are_answered_to_a_guest_that_polls(
    program: Callable[..., Path], features: int, depth: int, quiet: int
) -> None:
    with BareMachine(program("echo.c"), user=True) as machine:
        ((answered, wrong, interrupts, kicks, status),) = drive(machine, 2000, depth, features | quiet)
        assert (answered, wrong, interrupts, status) == (2000, 0, 0, UP)
        assert 0 < kicks <= 2000
        (transport,) = machine.devices.transports()
        assert not transport.needs_reset


@ring_features
@pytest.mark.parametrize("depth", [1, 16])
def test_a_guest_that_sleeps_until_its_interrupt_is_always_woken(
    program: Callable[..., Path], features: int, depth: int
) -> None:
    with BareMachine(program("echo.c")) as machine:
        ((answered, wrong, interrupts, _, status),) = drive(machine, 400, depth, features | SLEEP)
        assert (answered, wrong, status) == (400, 0, UP)
        assert interrupts > 0


@pytest.mark.parametrize("cpus", [2, 4])
def test_each_of_several_vcpus_drives_a_device(program: Callable[..., Path], cpus: int) -> None:
    with BareMachine(program("echo.c"), user=True, cpus=cpus, all_cpus=True) as machine:
        answers = drive(machine, 1000, 8, EVENT_IDX)
        assert [(answered, wrong, status) for answered, wrong, _, _, status in answers] == [(1000, 0, UP)] * cpus


def test_a_machine_that_is_stopped_amid_requests_closes(program: Callable[..., Path]) -> None:
    with BareMachine(program("echo.c"), user=True) as machine:
        probe = Probe()
        window = machine.add_device(probe, "probe0")
        machine.set_parameters(1 << 40, 32, EVENT_IDX, window, IRQ_BASE, 1)
        served = threading.Event()
        on_kick = probe.on_kick

        def serve(queue: object) -> None:
            on_kick(queue)  # type: ignore[arg-type]
            if probe.calls.count("on_kick") > 100:
                served.set()

        probe.on_kick = serve  # type: ignore[method-assign]

        def stop() -> None:
            served.wait(20)
            machine.stop_by_user()

        stopper = threading.Thread(target=stop)
        stopper.start()
        reason = machine.run()
        stopper.join()
        assert reason.end is End.QUIT
    assert probe.calls[-2:] == ["reset", "close"]

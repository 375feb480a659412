"""A guest on a real vCPU drives queues that another process serves: its kicks and interrupts by KVM, none by us."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pyvmm.device_process.parent import DeviceProcess
from pyvmm.exit_reason import End
from pyvmm.options import parse_device
from pyvmm.plugins import DeviceRequest, Plugins
from pyvmm.testing.bare_metal import MEMORY, PARAMETERS, BareMachine
from pyvmm.vhost_user.front_end import VhostUserDevice

from core.tests import huge_pages
from core.tests.bare_metal.test_echo import ANSWERS, SLEEP, UP, ring_features
from core.tests.distributions import SitePackages

ENDLESS = 1 << 62

PROBE = """

    from core.tests.virtio.probe import Probe
    from pyvmm.plugin import DeviceKind, hookimpl, options


    @options
    class ProbeOptions:
        pass


    @hookimpl
    def pyvmm_device_kinds():
        return [DeviceKind("probe", ProbeOptions, lambda options: Probe(), help="echoes")]
"""


@pytest.fixture
def request_(site_packages: SitePackages) -> Callable[[str], DeviceRequest]:
    """A request for a probe with options."""
    site_packages.install("pyvmm-probe", {"probe": "pyvmm_probe"}, {"pyvmm_probe": PROBE})
    return lambda options: Plugins().request_devices([parse_device(f"probe,{options}")])[0]


def set_parameters(machine: BareMachine, requests: int, depth: int, flags: int) -> None:
    [transport] = machine.devices.transports()
    [event] = [acpi.irq for acpi in machine.devices.acpi_devices if acpi.mmio is not None]
    assert event is not None
    window = machine.devices.id_to_addr_map[transport.name]
    machine.set_parameters(requests, depth, flags, window, event, 1)


def answers(machine: BareMachine) -> list[int]:
    """Requests answered, wrong answers, interrupts, kicks, status."""
    return machine.answers(5, ANSWERS)


@ring_features
@pytest.mark.parametrize(("user", "flags"), [(True, 0), (False, SLEEP)], ids=["polls", "sleeps"])
def test_requests_are_answered_by_a_process(
    program: Callable[..., Path],
    request_: Callable[[str], DeviceRequest],
    features: int,
    user: bool,
    flags: int,
) -> None:
    with BareMachine(program("echo.c"), user=user, devices=[request_("process=on")]) as machine:
        set_parameters(machine, 500, 16, flags | features)
        assert machine.run().end is End.POWEROFF
        answered, wrong, interrupts, kicks, status = answers(machine)
        assert (answered, wrong, status) == (500, 0, UP)
        assert (interrupts > 0) == bool(flags & SLEEP)
        assert kicks > 0


def test_memory_of_huge_pages_is_shared_with_a_process(
    program: Callable[..., Path], request_: Callable[[str], DeviceRequest]
) -> None:
    with (
        huge_pages.reserved(MEMORY // huge_pages.SIZE),
        BareMachine(
            program("echo.c"), user=True, devices=[request_("process=on")], huge_page_size=huge_pages.SIZE
        ) as machine,
    ):
        set_parameters(machine, 500, 16, 0)
        assert machine.run().end is End.POWEROFF
        assert answers(machine)[:2] == [500, 0]


@pytest.mark.parametrize(("user", "flags"), [(True, 0), (False, SLEEP)], ids=["polls", "sleeps"])
def test_guest_notices_nothing_but_a_pause_when_the_process_is_replaced(
    program: Callable[..., Path], request_: Callable[[str], DeviceRequest], user: bool, flags: int
) -> None:
    with BareMachine(program("echo.c"), user=user, devices=[request_("process=on,restart=on")]) as machine:
        set_parameters(machine, ENDLESS, 32, flags)
        [transport] = machine.devices.transports()
        queue = transport.queues[0]
        device = transport.device
        assert isinstance(device, VhostUserDevice)
        process = device._source
        assert isinstance(process, DeviceProcess)
        ended = threading.Event()
        killed: list[int] = []

        def wait_for(condition: Callable[[], bool]) -> None:
            while not condition() and not ended.wait(0.001):
                pass

        def kill() -> None:
            for kills in range(3):
                before = queue.used_idx()
                wait_for(lambda before=before: (queue.used_idx() - before) % 0x10000 > 200)  # type: ignore[misc]
                if kills < 2 and process.child is not None:
                    killed.append(process.child.pid)
                    os.kill(process.child.pid, signal.SIGKILL)
                    wait_for(lambda: process.child is not None and process.child.pid not in killed)
            machine.memory.write_u64(PARAMETERS, 0)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            assert machine.run().end is End.POWEROFF
        finally:
            ended.set()
            killer.join()
        answered, wrong, _, _, status = answers(machine)
    assert len(killed) == 2
    assert answered > 600
    assert (wrong, status) == (0, UP)

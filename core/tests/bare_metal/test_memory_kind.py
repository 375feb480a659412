"""Whose a machine's memory is: the VMM's alone, unless another process has to see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pyvmm.errors import HostError, UsageError
from pyvmm.machine import Machine, MachineConfig
from pyvmm.memory import GuestMemory
from pyvmm.options import parse_device
from pyvmm.plugins import Plugins

from core.tests.virtio.probe import Probe


@pytest.mark.parametrize(
    ("devices", "settings", "at_first_use", "shared"),
    [
        ([], {}, True, False),
        (["rng,process=off"], {}, True, False),
        (["rng,process=on"], {}, True, True),
        (["balloon,process=off"], {}, True, True),
        ([], {"memfd": True}, True, True),
        ([], {"join_pages": False}, True, True),
        ([], {"huge_page_size": 4096}, True, True),
        ([], {}, False, True),
    ],
)
def test_it_is_a_memfd_where_that_is_needed(
    program: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    devices: Sequence[str],
    settings: dict[str, Any],
    at_first_use: bool,
    shared: bool,
) -> None:
    monkeypatch.setattr("pyvmm.machine.huge_pages.at_first_use", lambda: at_first_use)
    monkeypatch.setattr("pyvmm.memory._huge_page_flags", lambda size: 0)  # the host may have none in reserve
    requests = Plugins().request_devices(map(parse_device, devices))
    config = MachineConfig(kernel=program("end.c"), memory=32 << 20, devices=requests, **settings)
    with Machine(config) as machine:
        assert bool(machine.memory.fds) == shared
        assert machine.memory.read(0x300000, 8) == bytes(8)


def test_it_is_a_memfd_where_the_host_refuses_the_other(
    program: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(ranges: object) -> None:
        raise HostError("memory: no room")

    monkeypatch.setattr("pyvmm.machine.huge_pages.at_first_use", lambda: True)
    monkeypatch.setattr(GuestMemory, "private", refuse)
    with Machine(MachineConfig(kernel=program("end.c"), memory=32 << 20)) as machine:
        assert machine.memory.fds


@pytest.mark.parametrize(
    ("name", "gil_free", "needs_memfd"),
    [
        ("block", True, False),
        ("net", True, False),
        ("fs", False, True),
        ("vhost-user", False, True),
        ("balloon", False, True),
        ("rng", True, False),
        ("vsock", False, False),
        ("serial", False, False),
    ],
)
def test_what_our_kinds_say_of_themselves(name: str, gil_free: bool, needs_memfd: bool) -> None:
    kind = Plugins().kind(name)
    assert (kind.gil_free, kind.needs_memfd) == (gil_free, needs_memfd)


def test_a_device_that_needs_a_memfd_is_refused_where_there_is_none(
    program: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyvmm.machine.huge_pages.at_first_use", lambda: True)
    device = Probe()
    device.needs_memfd = True
    with (
        Machine(MachineConfig(kernel=program("end.c"), memory=32 << 20)) as machine,
        pytest.raises(
            UsageError, match="probe9: the device needs a memfd for the guest's memory, and this machine has none"
        ),
    ):
        machine.add_device(device, "probe9")

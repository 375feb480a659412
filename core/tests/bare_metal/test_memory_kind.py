"""Whose a machine's memory is: the VMM's alone, unless another process has to see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pyvmm.errors import UsageError
from pyvmm.machine import Machine, MachineConfig
from pyvmm.plugin import DeviceKind, options
from pyvmm.plugins import DeviceRequest

from core.tests.virtio.probe import Probe


@options
class NoOptions:
    """Of a device that takes none."""


def request_(*, process: bool = False, shares_memory: bool = False) -> DeviceRequest:
    kind = DeviceKind("probe", NoOptions, lambda _: Probe(), help="", shares_memory=shares_memory)
    return DeviceRequest(kind, NoOptions(), "probe", "probe0", process=process)


@pytest.mark.parametrize(
    ("devices", "settings", "at_first_use", "shared"),
    [
        ([], {}, True, False),
        ([request_()], {}, True, False),
        ([request_(process=True)], {}, True, True),
        ([request_(shares_memory=True)], {}, True, True),
        ([], {"shared_memory": True}, True, True),
        ([], {"join_pages": False}, True, True),
        ([], {}, False, True),
    ],
)
def test_it_is_a_memfd_where_that_is_needed(
    program: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    devices: Sequence[DeviceRequest],
    settings: dict[str, Any],
    at_first_use: bool,
    shared: bool,
) -> None:
    monkeypatch.setattr("pyvmm.huge_pages.at_first_use", lambda: at_first_use)
    config = MachineConfig(kernel=program("end.c"), memory=32 << 20, devices=devices, **settings)
    with Machine(config) as machine:
        assert bool(machine.memory.fds) == shared
        assert machine.memory.read(0x300000, 8) == bytes(8)


def test_a_device_that_gives_the_memory_away_is_refused_where_it_cannot(
    program: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyvmm.huge_pages.at_first_use", lambda: True)
    device = Probe()
    device.shares_memory = True
    with (
        Machine(MachineConfig(kernel=program("end.c"), memory=32 << 20)) as machine,
        pytest.raises(UsageError, match="probe9: the device gives the guest's memory to another process"),
    ):
        machine.add_device(device, "probe9")

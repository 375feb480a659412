"""A guest's driver comes up: a program that runs the machine hears of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pyvmm.exit_reason import End
from pyvmm.machine import MachineEvent
from pyvmm.plugins import DeviceRequest
from pyvmm.testing.bare_metal import BareMachine

from core.tests.bare_metal.test_device_process import request_, set_parameters

__all__ = ["request_"]


@pytest.mark.parametrize("where", ["on", "off"])
def test_a_driver_that_comes_up_is_an_event(
    program: Callable[..., Path], request_: Callable[[str], DeviceRequest], where: str
) -> None:
    with BareMachine(program("echo.c"), devices=[request_(f"process={where}")]) as machine:
        set_parameters(machine, 100, 4, 0)
        reason = machine.run()
        assert reason.end is End.POWEROFF
        assert list(machine.events()) == [
            MachineEvent("started"),
            MachineEvent("driver_up", "probe0"),
            MachineEvent("ended", reason=reason),
        ]

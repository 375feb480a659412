"""A machine's name in the log, for programs with several machines."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from pyvmm import Machine, MachineConfig

from core.tests.bare_metal.test_device_process import PROBE
from core.tests.distributions import SitePackages

MEMORY = 32 << 20


@pytest.mark.parametrize("where", ["on", "off"])
def test_log_lines_of_devices_begin_with_the_machine_s_name(
    program: Callable[..., Path], site_packages: SitePackages, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    site_packages.install("pyvmm-probe", {"probe": "pyvmm_probe"}, {"pyvmm_probe": PROBE})
    config = MachineConfig(program("end.c", "END_POWEROFF"), memory=MEMORY, devices=[f"probe,process={where}"])
    with caplog.at_level(logging.INFO), Machine(config) as machine:
        machine.run()
        [transport] = machine.devices.transports()
        assert (machine.name, transport.device.name) == ("", "probe0")
    assert "probe0: no driver has started it" in caplog.messages
    caplog.clear()

    config = config.__replace__(name="web")
    with caplog.at_level(logging.INFO), Machine(config) as machine:
        machine.run()
        [transport] = machine.devices.transports()
        assert (machine.name, transport.device.name) == ("web", "web/probe0")
    assert "web/probe0: no driver has started it" in caplog.messages
    about = [message for message in caplog.messages if "probe0" in message]
    assert all(message.startswith("web/probe0") for message in about)
    assert not any("probe0: probe0" in message or "probe0: web/" in message for message in about)

"""A machine of a plugin's device on the real /dev/kvm: what the plugin is told of its life, and adds to it."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyvmm.errors import PluginError, UsageError
from pyvmm.exit_reason import End, ExitReason
from pyvmm.options import parse_device
from pyvmm.plugins import DeviceRequest, Plugins
from pyvmm.testing.bare_metal import BareMachine

from core.tests.distributions import SitePackages

LAMP = """
    import threading

    from pyvmm.bus import BusDevice, BusRange, Placement
    from pyvmm.errors import UsageError
    from pyvmm.plugin import DeviceKind, hookimpl, option, options
    from pyvmm.x86_64 import aml

    heard = []
    failing = {}


    @options
    class LampOptions:
        at: int = option(0x700, primary=True, help="port")


    class Lamp(BusDevice):
        def __init__(self, options):
            self.placements = [Placement(ports=BusRange(options.at, 4), acpi_hid="PYVM0001")]

        def close(self):
            heard.append(("closed", self.name))


    def cmdline(request):
        return f"lamps={len(request.options)}"


    def acpi(request):
        return aml.name("PATH", aml.string(request.path)) + aml.name("PORT", aml.integer(request.ports[0].base))


    @hookimpl
    def pyvmm_device_kinds():
        return [DeviceKind("lamp", LampOptions, Lamp, help="gives light", process=False, cmdline=cmdline, acpi=acpi)]


    def hear(*words):
        heard.append(words)
        if error := failing.get(words[0]):
            raise error


    @hookimpl
    def pyvmm_machine_created(machine):
        hear("created", machine)


    @hookimpl
    def pyvmm_machine_started(machine):
        hear("started", machine, threading.current_thread())


    @hookimpl
    def pyvmm_machine_stopped(machine, reason):
        hear("stopped", machine, reason)
"""
DARK = """
    from pyvmm.plugin import hookimpl


    @hookimpl
    def pyvmm_device_kinds():
        return []


    @hookimpl
    def pyvmm_machine_created(machine):
        raise RuntimeError("nobody asked for me")
"""


@pytest.fixture
def lamps(site_packages: SitePackages) -> Callable[..., list[DeviceRequest]]:
    """Requests for lamps at ports; installed beside a plugin that nobody asks for."""
    site_packages.install("pyvmm-lamp", {"lamp": "pyvmm_lamp"}, {"pyvmm_lamp": LAMP})
    site_packages.install("pyvmm-dark", {"dark": "pyvmm_dark"}, {"pyvmm_dark": DARK})
    return lambda *ports: Plugins().request_devices([parse_device(f"lamp:{port}") for port in ports])


def plugin() -> Any:
    return sys.modules["pyvmm_lamp"]


def test_a_plugin_hears_of_its_machine_s_life_in_order(
    program: Callable[..., Path], lamps: Callable[..., list[DeviceRequest]]
) -> None:
    requests = lamps(0x700, 0x710)
    with BareMachine(program("end.c", "END_POWEROFF"), devices=requests) as machine:
        assert plugin().heard == [("created", machine)]
        reason = machine.run()
        told = plugin().heard[1:]
        assert told == [("started", machine, threading.current_thread()), ("stopped", machine, reason)]
        assert reason.end is End.POWEROFF
    assert plugin().heard[3:] == [("closed", "lamp1"), ("closed", "lamp0")]


def test_a_plugin_that_nobody_asked_for_hears_nothing(
    program: Callable[..., Path], lamps: Callable[..., list[DeviceRequest]]
) -> None:
    with BareMachine(program("end.c", "END_POWEROFF"), devices=lamps(0x700)) as machine:
        machine.run()
    assert "pyvmm_dark" not in sys.modules


def test_a_machine_without_its_devices_is_none_of_a_plugin_s(
    program: Callable[..., Path], lamps: Callable[..., list[DeviceRequest]]
) -> None:
    lamps(0x700)
    with BareMachine(program("end.c", "END_POWEROFF")) as machine:
        machine.run()
    assert plugin().heard == []


def test_a_machine_that_never_ran_has_no_reason(
    program: Callable[..., Path], lamps: Callable[..., list[DeviceRequest]]
) -> None:
    with BareMachine(program("end.c", "END_POWEROFF"), devices=lamps(0x700)) as machine:
        pass
    assert plugin().heard == [("created", machine), ("stopped", machine, None), ("closed", "lamp0")]


@pytest.mark.parametrize(
    ("error", "type_", "message"),
    [
        (UsageError("lamp: one is enough"), UsageError, "lamp: one is enough"),
        (KeyError("x"), PluginError, "pyvmm-lamp 1.2: pyvmm_machine_created fails: KeyError: 'x'"),
    ],
)
def test_a_plugin_that_refuses_the_machine_is_told_of_its_end(
    program: Callable[..., Path],
    lamps: Callable[..., list[DeviceRequest]],
    error: Exception,
    type_: type[Exception],
    message: str,
) -> None:
    requests = lamps(0x700)
    plugin().failing["created"] = error
    with pytest.raises(type_) as raised:
        BareMachine(program("end.c", "END_POWEROFF"), devices=requests)
    assert str(raised.value) == message
    assert [words[0] for words in plugin().heard] == ["created", "stopped", "closed"]
    assert plugin().heard[1][2] is None


def test_hooks_that_fail_later_are_logged_with_their_package(
    program: Callable[..., Path], lamps: Callable[..., list[DeviceRequest]], caplog: pytest.LogCaptureFixture
) -> None:
    requests = lamps(0x700)
    plugin().failing.update(started=RuntimeError("one"), stopped=RuntimeError("two"))
    with BareMachine(program("end.c", "END_POWEROFF"), devices=requests) as machine:
        reason = machine.run()
    assert reason.end is End.POWEROFF
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert messages == ["pyvmm-lamp 1.2: pyvmm_machine_started fails", "pyvmm-lamp 1.2: pyvmm_machine_stopped fails"]
    assert plugin().heard[-1] == ("closed", "lamp0")


def test_a_loop_that_fails_stops_the_machine_with_a_reason(
    program: Callable[..., Path], lamps: Callable[..., list[DeviceRequest]]
) -> None:
    with BareMachine(program("end.c", "END_SPIN"), devices=lamps(0x700)) as machine:
        machine.loop.post(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            machine.run()
        assert plugin().heard[-1] == ("stopped", machine, ExitReason(End.HOST_FAILURE, "the event loop failed"))


def test_a_kind_adds_to_the_command_line_and_to_each_device_s_object_in_acpi(
    program: Callable[..., Path], lamps: Callable[..., list[DeviceRequest]]
) -> None:
    with BareMachine(program("end.c", "END_POWEROFF"), devices=lamps(0x700, 0x710)) as machine:
        machine.run()
        assert str(machine.cmdline).split().count("lamps=2") == 1
        tables = machine.memory.read(0xE0000, 0x20000)
    names = [rb"\_SB." + tables[at - 4 : at] for at in _all(tables, b"\x08_HID\x0dPYVM0001\0")]
    paths = [rb"\_SB.D" + tables[at + 12 : at + 15] for at in _all(tables, b"\x08PATH\x0d\\_SB.D")]
    assert len(paths) == 2
    assert paths == names
    assert tables.count(b"\x08PORT\x0b\x00\x07") == tables.count(b"\x08PORT\x0b\x10\x07") == 1


def _all(data: bytes, part: bytes) -> list[int]:
    found, at = [], data.find(part)
    while at >= 0:
        found.append(at)
        at = data.find(part, at + 1)
    return found


def test_a_device_s_directory_goes_with_the_machine(
    program: Callable[..., Path],
    lamps: Callable[..., list[DeviceRequest]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    before = set(tmp_path.iterdir())
    with BareMachine(program("end.c", "END_POWEROFF"), devices=lamps(0x700, 0x710)) as machine:
        assert set(tmp_path.iterdir()) == before
        devices = {device.name: device for _, device in machine.devices.ports.devices()}
        path = devices["lamp0"].context.directory()
        path.joinpath("socket").touch()
        assert devices["lamp1"].context.directory("lamp0") == path
        machine.run()
        assert path.joinpath("socket").exists()
    assert set(tmp_path.iterdir()) == before

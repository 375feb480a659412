"""The registers that end a run, and the clock that is not there."""

from __future__ import annotations

import pytest
from pyvmm.x86_64 import platform_devices
from pyvmm.x86_64.layout import POWER_PORT, RESET_PORT, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT
from pyvmm.x86_64.platform_devices import AbsentCmos, KeyboardReset, PowerRegisters

S5 = platform_devices.S5_SLP_TYP << platform_devices.SLP_TYP_SHIFT


class Calls(list[str]):
    """What was called, in order."""

    def poweroff(self) -> None:
        self.append("poweroff")

    def reboot(self) -> None:
        self.append("reboot")


@pytest.mark.parametrize(
    ("port", "data", "calls"),
    [
        (SLEEP_CONTROL_PORT, [S5 | platform_devices.SLP_EN], ["poweroff"]),
        (SLEEP_CONTROL_PORT, [S5], []),
        (SLEEP_CONTROL_PORT, [platform_devices.SLP_EN], []),
        (SLEEP_CONTROL_PORT, [1 << platform_devices.SLP_TYP_SHIFT | platform_devices.SLP_EN], []),
        (SLEEP_CONTROL_PORT, [0xFF], []),
        (SLEEP_STATUS_PORT, [0x80], []),
        (SLEEP_STATUS_PORT, [S5 | platform_devices.SLP_EN], []),
        (RESET_PORT, [platform_devices.RESET_VALUE], ["reboot"]),
        (RESET_PORT, [0], []),
        (SLEEP_CONTROL_PORT, [0, S5 | platform_devices.SLP_EN, platform_devices.RESET_VALUE, 0], ["reboot"]),
        (POWER_PORT + 3, [0xFF], []),
    ],
)
def test_only_the_right_value_in_the_right_register_ends_a_run(port: int, data: list[int], calls: list[str]) -> None:
    called = Calls()
    device = PowerRegisters(called.poweroff, called.reboot)

    device.write(port - POWER_PORT, memoryview(bytes(data)))

    assert called == calls


def test_power_registers_read_zero() -> None:
    device = PowerRegisters(lambda: None, lambda: None)
    data = bytearray(b"\xff\xff")

    device.read(0, memoryview(data))

    assert data == b"\0\0"


@pytest.mark.parametrize(("value", "calls"), [(0xFE, ["reboot"]), (0xFF, []), (0xD1, []), (0x20, [])])
def test_port_0x64_resets_at_its_command_only(value: int, calls: list[str]) -> None:
    called = Calls()

    KeyboardReset(called.reboot).write(0, memoryview(bytes([value])))

    assert called == calls


def test_port_0x64_says_that_there_is_no_controller_but_takes_commands() -> None:
    data = bytearray(b"\xff")

    KeyboardReset(lambda: None).read(0, memoryview(data))

    output_buffer_full, input_buffer_full = 1, 2
    assert data[0] & output_buffer_full
    assert not data[0] & input_buffer_full


def test_the_absent_clock_is_never_in_an_update_and_never_in_24_hour_mode() -> None:
    device = AbsentCmos()

    for register in range(0x80):
        device.write(0, memoryview(bytes([register])))
        data = bytearray(b"\xff")
        device.read(1, memoryview(data))

        assert data == b"\0"

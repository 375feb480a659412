"""The controller and its keyboard as drivers find them, Linux's above all, and Ctrl-Alt-Del."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyvmm.errors import UsageError
from pyvmm.exit_reason import End
from pyvmm.options import parse_options
from pyvmm.testing.port_driver import PortDriver
from pyvmm_i8042 import I8042Options, keyboard, pyvmm_device_kinds
from pyvmm_i8042 import registers as r
from pyvmm_i8042.device import I8042, MAX_REPLIES

DATA, COMMAND = 0x60, 0x64


class Controller:
    """A driver's view."""

    def __init__(self, options: I8042Options | None = None) -> None:
        self.device = I8042(options or I8042Options())
        self.driver = PortDriver(self.device, name="i8042")

    @property
    def status(self) -> int:
        return self.driver.inb(COMMAND)

    def read(self) -> list[int]:
        """All that there is to be read."""
        values = []
        while self.status & r.STR_OBF:
            values.append(self.driver.inb(DATA))
            assert len(values) < 100
        return values

    def command(self, command: int, *parameters: int) -> list[int]:
        """A command to the controller, and its answer."""
        self.driver.outb(COMMAND, command)
        for parameter in parameters:
            self.driver.outb(DATA, parameter)
        return self.read()

    def keyboard(self, *values: int) -> list[int]:
        """Bytes for the keyboard, one by one, and all that it answers."""
        answer = []
        for value in values:
            self.driver.outb(DATA, value)
            answer += self.read()
        return answer

    def come_up_as_linux_does(self) -> None:
        """i8042_controller_init, i8042_enable_kbd_port and atkbd_probe, in short."""
        (ctr,) = self.command(r.CTL_RCTR)
        assert self.command(r.CTL_RCTR) == [ctr]
        assert self.status & r.STR_KEYLOCK
        assert self.command(r.CTL_WCTR, ctr | r.CTR_KBDDIS) == []
        assert self.command(r.CTL_WCTR, ctr & ~r.CTR_KBDDIS | r.CTR_KBDINT) == []
        assert self.keyboard(keyboard.IDENTIFY)[:2] == [keyboard.ACKNOWLEDGE, 0xAB]
        assert self.keyboard(keyboard.SET_LEDS, 0) == [keyboard.ACKNOWLEDGE] * 2
        assert self.keyboard(keyboard.SET_RATE, 0) == [keyboard.ACKNOWLEDGE] * 2
        assert self.keyboard(keyboard.ENABLE) == [keyboard.ACKNOWLEDGE]
        self.driver.edges()


@pytest.fixture
def controller() -> Iterator[Controller]:
    controller = Controller()
    yield controller
    controller.driver.close()


# --- the controller


def test_it_has_two_ports_and_not_those_between(controller: Controller) -> None:
    assert controller.status == r.STR_KEYLOCK | r.STR_SYS
    assert [controller.driver.inb(port) for port in (0x61, 0x62, 0x63, 0x65)] == [0xFF] * 4
    assert controller.driver.read(DATA, 4) == b"\xff" * 4


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (r.CTL_TEST, [0x55]),
        (r.KBD_TEST, [0x00]),
        (r.AUX_TEST, [0x01]),
        (r.CTL_RCTR, [r.CTR_SYS | r.CTR_XLATE | r.CTR_AUXDIS]),
        (r.READ_OUTPUT_PORT, [3]),
        (r.READ_INPUT_PORT, [0x80]),
        (r.AUX_ENABLE, []),
        (r.AUX_DISABLE, []),
        (0x00, []),
        (0xFF, []),
    ],
)
def test_commands(controller: Controller, command: int, answer: list[int]) -> None:
    assert controller.command(command) == answer
    assert controller.driver.stops == []
    assert controller.driver.edges() == 0


def test_the_control_register_keeps_what_is_written_but_has_no_mouse(controller: Controller) -> None:
    assert controller.command(r.CTL_WCTR, 0x03) == []
    assert controller.command(r.CTL_RCTR) == [0x03 | r.CTR_AUXDIS]
    controller.command(r.KBD_DISABLE)
    assert controller.command(r.CTL_RCTR) == [0x03 | r.CTR_AUXDIS | r.CTR_KBDDIS]
    controller.command(r.KBD_ENABLE)
    assert controller.command(r.CTL_RCTR) == [0x03 | r.CTR_AUXDIS]


def test_linux_finds_no_mouse_at_once(controller: Controller) -> None:
    controller.driver.outb(COMMAND, r.AUX_LOOP)
    controller.driver.outb(DATA, 0x5A)
    status = controller.status
    assert status & r.STR_OBF
    assert status & 0x20 == 0  # i8042_command: "auxerr"
    assert controller.read() == [0x5A]
    assert controller.command(r.AUX_SEND, 0xF4) == []


def test_status_tells_a_command_from_data(controller: Controller) -> None:
    controller.driver.outb(COMMAND, r.CTL_WCTR)
    assert controller.status & r.STR_CMDDAT
    controller.driver.outb(DATA, 0)
    assert controller.status & (r.STR_CMDDAT | r.STR_SYS) == 0


def test_a_command_takes_the_place_of_one_that_waits_for_its_parameter(controller: Controller) -> None:
    controller.driver.outb(COMMAND, r.CTL_WCTR)
    assert controller.command(r.KBD_LOOP, 0x42) == [0x42]
    assert controller.command(r.CTL_RCTR) == [r.CTR_SYS | r.CTR_XLATE | r.CTR_AUXDIS]


def test_a_byte_that_was_read_is_read_again_where_there_is_no_other(controller: Controller) -> None:
    controller.command(r.CTL_TEST)
    assert controller.driver.inb(DATA) == 0x55


# --- reset


@pytest.mark.parametrize("command", [0xFE, 0xFC, 0xF0])
def test_a_pulse_of_the_reset_line_reboots(controller: Controller, command: int) -> None:
    controller.driver.outb(COMMAND, command)
    (reason,) = controller.driver.stops
    assert (reason.end, reason.status) == (End.REBOOT, 0)


def test_the_reset_line_held_low_reboots(controller: Controller) -> None:
    assert controller.command(r.WRITE_OUTPUT_PORT, 0x03) == []
    assert controller.driver.stops == []
    controller.command(r.WRITE_OUTPUT_PORT, 0x02)
    assert [reason.end for reason in controller.driver.stops] == [End.REBOOT]


# --- the keyboard


def test_linux_comes_up(controller: Controller) -> None:
    controller.come_up_as_linux_does()


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        ([keyboard.RESET], [0xFA, 0xAA]),
        ([keyboard.ECHO], [0xEE]),
        ([keyboard.IDENTIFY], [0xFA, 0xAB, 0x41]),
        ([keyboard.SCAN_CODE_SET, 0], [0xFA, 0xFA, 0x41]),
        ([keyboard.SCAN_CODE_SET, 2], [0xFA, 0xFA]),
        ([keyboard.SCAN_CODE_SET, 3], [0xFA, 0xFE]),
        ([keyboard.IDENTIFY, keyboard.RESEND], [0xFA, 0xAB, 0x41, 0x41]),
        ([keyboard.SET_LEDS, keyboard.ENABLE], [0xFA, 0xFA]),  # a command in place of a parameter
        ([0xEA], [0xFE]),
        ([0x00], [0xFE]),
    ],
)
def test_what_the_keyboard_answers(controller: Controller, values: list[int], answer: list[int]) -> None:
    assert controller.keyboard(*values) == answer


def test_without_translation_its_bytes_are_its_own(controller: Controller) -> None:
    controller.command(r.CTL_WCTR, r.CTR_SYS)
    assert controller.keyboard(keyboard.IDENTIFY) == [0xFA, 0xAB, 0x83]
    assert controller.keyboard(keyboard.SCAN_CODE_SET, 0) == [0xFA, 0xFA, 0x02]


def test_a_keyboard_that_is_disabled_is_heard_later(controller: Controller) -> None:
    controller.driver.outb(DATA, keyboard.ECHO)
    controller.command(r.KBD_DISABLE)
    assert controller.status & r.STR_OBF == 0
    assert controller.command(r.CTL_TEST) == [0x55]
    controller.command(r.CTL_TEST)
    controller.driver.outb(COMMAND, r.KBD_ENABLE)
    assert controller.read() == [0xEE]


def test_a_byte_to_a_keyboard_that_is_disabled_enables_it(controller: Controller) -> None:
    controller.command(r.KBD_DISABLE)
    assert controller.keyboard(keyboard.ECHO) == [0xEE]


def test_the_controllers_answer_goes_before_the_keyboards(controller: Controller) -> None:
    controller.driver.outb(DATA, keyboard.ECHO)
    assert controller.command(r.CTL_TEST) == [0x55, 0xEE]


def test_a_guest_that_reads_nothing_costs_nothing(controller: Controller) -> None:
    for _ in range(10_000):
        controller.driver.outb(DATA, keyboard.IDENTIFY)
        controller.driver.outb(COMMAND, r.CTL_TEST)
    assert len(controller.read()) <= keyboard.BUFFER_SIZE + MAX_REPLIES


# --- interrupts and Ctrl-Alt-Del


def test_each_byte_interrupts_once(controller: Controller) -> None:
    controller.command(r.CTL_WCTR, r.CTR_SYS | r.CTR_KBDINT)
    controller.driver.outb(DATA, keyboard.IDENTIFY)
    for value in (0xFA, 0xAB, 0x83):
        assert controller.driver.edges() == 1
        assert controller.status & r.STR_OBF
        assert controller.driver.inb(DATA) == value
    assert controller.driver.edges() == 0


def test_a_byte_that_waits_interrupts_when_interrupts_come_to_be_wanted(controller: Controller) -> None:
    controller.driver.outb(DATA, keyboard.ECHO)
    assert controller.driver.edges() == 0
    controller.driver.outb(COMMAND, r.CTL_WCTR)
    controller.driver.outb(DATA, r.CTR_SYS | r.CTR_KBDINT)
    assert controller.driver.edges() == 1


@pytest.mark.parametrize(
    ("translate", "codes"),
    [
        (True, [0x1D, 0x38, 0xE0, 0x53, 0xE0, 0xD3, 0xB8, 0x9D]),
        (False, [0x14, 0x11, 0xE0, 0x71, 0xE0, 0xF0, 0x71, 0xF0, 0x11, 0xF0, 0x14]),
    ],
)
def test_ctrl_alt_del_is_pressed_and_let_go(controller: Controller, translate: bool, codes: list[int]) -> None:
    controller.come_up_as_linux_does()
    if not translate:
        controller.command(r.CTL_WCTR, r.CTR_SYS | r.CTR_KBDINT)
    assert controller.device.send_ctrl_alt_del()
    received = []
    while controller.driver.edges():
        received.append(controller.driver.inb(DATA))
    assert received == codes


def test_a_byte_that_announces_another_is_sent_again_alone(controller: Controller) -> None:
    controller.come_up_as_linux_does()
    controller.command(r.CTL_WCTR, r.CTR_SYS | r.CTR_KBDINT)
    assert controller.device.request_shutdown()  # as the machine does
    assert [controller.driver.inb(DATA) for _ in range(6)][-1] == keyboard.BREAK
    controller.driver.outb(COMMAND, r.CTL_WCTR)
    controller.driver.outb(DATA, r.CTR_SYS | r.CTR_XLATE)
    assert controller.keyboard(keyboard.RESEND) == [0x53, 0xB8, 0x9D, keyboard.BREAK]


def test_a_guest_that_does_not_listen_gets_no_ctrl_alt_del(controller: Controller) -> None:
    assert not controller.device.send_ctrl_alt_del()  # no driver came up
    assert not controller.device.request_shutdown()
    controller.come_up_as_linux_does()
    controller.keyboard(keyboard.DISABLE)
    assert not controller.device.send_ctrl_alt_del()
    controller.keyboard(keyboard.ENABLE)
    controller.command(r.KBD_DISABLE)
    assert not controller.device.send_ctrl_alt_del()
    controller.command(r.KBD_ENABLE)
    assert [controller.device.send_ctrl_alt_del() for _ in range(5)] == [True, True, False, False, False]


@given(st.lists(st.tuples(st.sampled_from([DATA, COMMAND]), st.integers(0, 255)), max_size=60))
def test_no_write_fails_the_device(accesses: list[tuple[int, int]]) -> None:
    controller = Controller()
    for port, value in accesses:
        controller.driver.outb(port, value)
        controller.device.send_ctrl_alt_del()
        if value % 3 == 0:
            controller.driver.inb(DATA)
    controller.command(r.CTL_WCTR, r.CTR_SYS | r.CTR_XLATE)
    controller.driver.outb(COMMAND, r.KBD_ENABLE)
    controller.read()
    controller.keyboard(keyboard.RESET)
    controller.come_up_as_linux_does()
    controller.driver.close()


# --- the user's end


def test_ctrl_alt_del_by_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    before = len(os.listdir("/proc/self/fd"))
    controller = Controller(I8042Options(socket=path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))

        def ask(line: bytes) -> dict[str, str]:
            client.send(line)
            controller.driver.run()
            return dict(json.loads(client.recv(4096)))

        assert ask(b"ctrl-alt-del\n") == {"error": "the guest does not read its keyboard"}
        controller.come_up_as_linux_does()
        assert ask(b"ctrl-alt-del\n") == {"sent": "ctrl-alt-del"}
        assert len(controller.read()) == 8
        assert ask(b"ctrl-alt-del now\n") == {"error": "ctrl-alt-del has no argument"}
    controller.driver.close()
    assert not path.exists()
    assert len(os.listdir("/proc/self/fd")) == before


def test_options(tmp_path: Path) -> None:
    assert parse_options(I8042Options, "i8042", "") == I8042Options()
    assert parse_options(I8042Options, "i8042", ",socket=/run/k") == I8042Options(Path("/run/k"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"^i8042: socket=.*give another path$"):
        I8042(I8042Options(socket=tmp_path / "file"))


def test_one_kind_that_names_the_guests_driver() -> None:
    (kind,) = pyvmm_device_kinds()
    assert (kind.name, kind.kernel_config, kind.process) == ("i8042", "CONFIG_KEYBOARD_ATKBD", False)
    (placement,) = I8042.placements
    assert (placement.irq, placement.acpi_hid) == (1, "PNP0303")

"""The keyboard controller of a PC: an Intel 8042 at ports 0x60 and 0x64, with its interrupt at line 1."""

from __future__ import annotations

import threading
from collections import deque

from pyvmm.bus import BusDevice, BusRange, Placement
from pyvmm.exit_reason import End, ExitReason
from pyvmm.logs import logger

from pyvmm_i8042 import registers as r
from pyvmm_i8042.keyboard import BREAK, Keyboard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm.device_context import DeviceContext
    from pyvmm.host.control_socket import Answer, ControlSocket

    from pyvmm_i8042 import I8042Options

log = logger(__name__)

_SET_1: Final = {0x14: 0x1D, 0x11: 0x38, 0x71: 0x53, 0x83: 0x41, 0x02: 0x41}
"""The keyboard's bytes that the controller translates, and their translations."""

MAX_REPLIES: Final = 16
"""The most bytes of the controller's own that wait for the guest; more are lost."""


class I8042(BusDevice):
    """A keyboard controller without a port for a mouse, and a keyboard.

    At first it is in the state in which a PC's BIOS leaves it: tested, translating, without interrupts.
    """

    # The ports between these two belong to other devices: 0x61 is the timer's.
    placements = (Placement(ports=BusRange(0x60, 1), more_ports=(BusRange(0x64, 1),), irq=1, acpi_hid="PNP0303"),)

    def __init__(self, options: I8042Options) -> None:
        self.keyboard = Keyboard()
        self.ctr = r.CTR_SYS | r.CTR_XLATE | r.CTR_AUXDIS
        self.output_port = r.OUTPUT_RESET | r.OUTPUT_A20
        self._replies: deque[int] = deque()
        """The controller's own answers. The guest reads them before the keyboard's bytes."""
        self._data = 0
        self._parameter_of: int | None = None
        self._wrote_command = False
        self._line = False
        """Whether the interrupt line is high."""
        self._lock = threading.Lock()  # vCPUs' threads make accesses, the loop's thread carries out the user's commands
        self._socket: ControlSocket | None = None
        if options.socket is not None:
            from pyvmm.host.control_socket import ControlSocket

            self._socket = ControlSocket(options.socket, f"i8042: socket={options.socket}")

    def attach(self, context: DeviceContext) -> None:
        super().attach(context)
        if self._socket is not None:
            self._socket.attach(context.loop, {"ctrl-alt-del": self._ctrl_alt_del})

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def request_shutdown(self) -> bool:
        """Press Ctrl, Alt and Del: Linux shuts down and asks for a reboot, which ends the run."""
        return self.send_ctrl_alt_del()

    def send_ctrl_alt_del(self) -> bool:
        """Press and release Ctrl, Alt and Del. Returns whether the guest has a driver that takes keys. Any thread may
        call this."""
        with self._lock:
            listens = self.ctr & (r.CTR_KBDINT | r.CTR_KBDDIS) == r.CTR_KBDINT
            done = listens and self.keyboard.press_ctrl_alt_del()
            self._settle()
        return done

    def read(self, offset: int, data: memoryview) -> None:
        """Answer with the status, or with the next byte from the controller or the keyboard."""
        with self._lock:
            data[0] = self._status() if offset == r.STATUS else self._read_data()

    def write(self, offset: int, data: memoryview) -> None:
        """Take a command, or data: a command's parameter or a byte for the keyboard."""
        with self._lock:
            command, self._parameter_of = self._parameter_of, None
            self._wrote_command = offset == r.STATUS
            if offset == r.STATUS:
                self._carry_out(data[0])
            elif command is not None:
                self._carry_out_with(command, data[0])
            else:
                self.ctr &= ~r.CTR_KBDDIS
                self.keyboard.receive(data[0])
            self._settle()

    @property
    def _has_output(self) -> bool:
        return bool(self._replies or (self.keyboard.output and not self.ctr & r.CTR_KBDDIS))

    def _status(self) -> int:
        status = r.STR_KEYLOCK | (r.STR_OBF if self._has_output else 0)
        status |= r.STR_SYS if self.ctr & r.CTR_SYS else 0
        return status | (r.STR_CMDDAT if self._wrote_command else 0)

    def _read_data(self) -> int:
        if self._replies:
            self._data = self._replies.popleft()
        elif self._has_output:
            self._data = self._translate(self.keyboard.read())
        self._line = False  # the line falls when a byte is read, and rises with the next byte
        self._settle()
        return self._data

    def _translate(self, value: int) -> int:
        """Translate a byte of the keyboard to scan code set 1, in which the release of a key is one byte."""
        if not self.ctr & r.CTR_XLATE:
            return value
        released = 0
        if value == BREAK and self.keyboard.output:
            value, released = self.keyboard.read(), 0x80
        return _SET_1.get(value, value) | released

    def _settle(self) -> None:
        """Interrupt if new output has become available."""
        line = self._has_output and bool(self.ctr & r.CTR_KBDINT)
        if line and not self._line:
            self.interrupt(r.CTR_KBDINT)
        self._line = line

    def _reply(self, value: int) -> None:
        if len(self._replies) < MAX_REPLIES:
            self._replies.append(value)

    def _carry_out(self, command: int) -> None:
        match command:
            case _ if command in r.WITH_PARAMETER:
                self._parameter_of = command
            case r.CTL_RCTR:
                self._reply(self.ctr)
            case r.CTL_TEST:
                self.ctr |= r.CTR_SYS
                self._reply(r.CTL_TEST_PASSED)
            case r.KBD_TEST:
                self._reply(r.KBD_TEST_PASSED)
            case r.AUX_TEST:
                self._reply(r.AUX_TEST_FAILED)
            case r.KBD_DISABLE:
                self.ctr |= r.CTR_KBDDIS
            case r.KBD_ENABLE:
                self.ctr &= ~r.CTR_KBDDIS
            case r.READ_INPUT_PORT:
                self._reply(r.INPUT_NOT_LOCKED)
            case r.READ_OUTPUT_PORT:
                self._reply(self.output_port)
            case _ if command >= r.PULSE:
                self._reset_unless(command & r.OUTPUT_RESET)
            case _:
                log.debug("%s: command %#x is unknown", self.name, command)

    def _carry_out_with(self, command: int, value: int) -> None:
        match command:
            case r.CTL_WCTR:
                self.ctr = value | r.CTR_AUXDIS  # there is no mouse port to enable
            case r.WRITE_OUTPUT_PORT:
                self.output_port = value
                self._reset_unless(value & r.OUTPUT_RESET)
            case r.KBD_LOOP | r.AUX_LOOP:
                # After AUX_LOOP, Linux sees by the status that the byte did not come from a mouse, and looks for no
                # mouse.
                self._reply(value)

    def _reset_unless(self, line: int) -> None:
        if not line:
            log.info("%s: the guest resets the machine", self.name)
            self.context.stop(ExitReason(End.REBOOT))

    def _ctrl_alt_del(self, argument: str, answer: Answer) -> None:
        """Carry out the user's command ``ctrl-alt-del``."""
        if argument:
            raise ValueError("ctrl-alt-del has no argument")
        if not self.send_ctrl_alt_del():
            raise ValueError("the guest does not read its keyboard")
        answer({"sent": "ctrl-alt-del"})

"""A PC's registers that the machine itself provides: ACPI sleep and reset, keyboard reset, and an absent clock."""

from __future__ import annotations

from pyvmm.bus import BusDevice
from pyvmm.x86_64.layout import POWER_PORT, RESET_PORT, SLEEP_CONTROL_PORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

S5_SLP_TYP: Final = 5
r"""What ``\_S5`` in the DSDT says that the guest has to write as SLP_TYP to power off."""

RESET_VALUE: Final = 1
"""What the FADT says that the guest has to write to the reset register."""

# Sleep control register, ACPI 6.5, section 4.8.3.7
SLP_TYP_SHIFT: Final = 2
SLP_TYP_MASK: Final = 0x1C
SLP_EN: Final = 0x20

KEYBOARD_RESET_COMMAND: Final = 0xFE
"""Pulses line 0 of the 8042's output port, which a PC wires to the CPU's reset."""

OUTPUT_BUFFER_FULL: Final = 0x01


RESET_VECTOR_CODE: Final = (
    b"\xb0" + RESET_VALUE.to_bytes(1)  # mov al, RESET_VALUE
    + b"\xba" + RESET_PORT.to_bytes(2, "little")  # mov dx, RESET_PORT
    + b"\xee"  # out dx, al
    + b"\xf4"  # hlt
)  # fmt: skip
"""What a PC's BIOS has at its entry, for a guest that reboots by a jump there.

Linux does so on hardware-reduced ACPI without EFI, unless it is told otherwise (``reboot_init`` and
``native_machine_emergency_restart`` in arch/x86/kernel/reboot.c: it asks EFI, which is not there, and then the BIOS).
"""


class PowerRegisters(BusDevice):
    """The sleep and reset registers of hardware-reduced ACPI (ACPI 6.5, sections 4.8.3.6 and 4.8.3.7).

    For ``POWER_PORT_SIZE`` ports from ``POWER_PORT`` on. All of them read 0: a sleep status with WAK_STS clear
    is a machine that sleeps.
    """

    name = "power"

    def __init__(self, on_poweroff: Callable[[], None], on_reboot: Callable[[], None]) -> None:
        """Both are called on the vCPU's thread, possibly more than once, and have to return soon."""
        self.on_poweroff = on_poweroff
        self.on_reboot = on_reboot

    def read(self, offset: int, data: memoryview) -> None:
        """All zeros."""
        data[:] = bytes(len(data))

    def write(self, offset: int, data: memoryview) -> None:
        """Power off or reset where a register is told to; a wider write goes to each register in turn."""
        for port, value in enumerate(data, POWER_PORT + offset):
            if port == SLEEP_CONTROL_PORT and value & SLP_EN:
                if (value & SLP_TYP_MASK) >> SLP_TYP_SHIFT == S5_SLP_TYP:
                    self.on_poweroff()
            elif port == RESET_PORT and value == RESET_VALUE:
                self.on_reboot()


class KeyboardReset(BusDevice):
    """The one thing that a machine without a keyboard controller needs of it: the reset command at port 0x64.

    For one port, ``I8042_STATUS_PORT``, where nothing else claims it.

    Its status always says that a byte waits to be read and that a command may be written. Linux's i8042 driver
    (``i8042_flush`` in drivers/input/serio/i8042.c) reads 16 of those and finds that there is no controller; with
    an empty status it would wait half a second for an answer to its first command, and with all ones Linux would
    wait another before each reset (``kb_wait`` in arch/x86/kernel/reboot.c).
    """

    name = "keyboard-reset"

    def __init__(self, on_reboot: Callable[[], None]) -> None:
        """``on_reboot`` is called on the vCPU's thread, possibly more than once, and has to return soon."""
        self.on_reboot = on_reboot

    def read(self, offset: int, data: memoryview) -> None:
        """The status register."""
        data[0] = OUTPUT_BUFFER_FULL

    def write(self, offset: int, data: memoryview) -> None:
        """Reset at the command for it."""
        if data[0] == KEYBOARD_RESET_COMMAND:
            self.on_reboot()


class AbsentCmos(BusDevice):
    """Says that there is no clock, at once: for ``CMOS_PORT_SIZE`` ports from ``CMOS_PORT`` on, where nothing else
    claims them.

    Who has the FADT (IAPC_CMOS_RTC_NOT_PRESENT) never asks. A guest without ACPI does, and from ports that nobody
    answers it reads that the clock is being updated: Linux waits for that to end for a second each time, in tens of
    thousands of accesses (``mc146818_avoid_UIP`` in drivers/rtc/rtc-mc146818-lib.c). From zeros it reads a clock that
    stands, in 12-hour mode, and its driver (``cmos_do_probe`` in drivers/rtc/rtc-cmos.c) refuses that.
    """

    name = "cmos"

    def read(self, offset: int, data: memoryview) -> None:
        """All zeros."""
        data[:] = bytes(len(data))

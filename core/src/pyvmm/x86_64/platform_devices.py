"""A PC's registers that the machine itself provides: ACPI sleep and reset, keyboard reset, and an absent clock."""

from __future__ import annotations

from pyvmm.bus import BusDevice
from pyvmm.x86_64.layout import POWER_PORT, RESET_PORT, SLEEP_CONTROL_PORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

S5_SLP_TYP: Final = 5
r"""The value of SLP_TYP that powers off. ``\_S5`` in the DSDT tells the guest."""

RESET_VALUE: Final = 1
"""The value of the reset register that resets. The FADT tells the guest."""

# Sleep control register, ACPI 6.5, section 4.8.3.7
SLP_TYP_SHIFT: Final = 2
SLP_TYP_MASK: Final = 0x1C
SLP_EN: Final = 0x20

KEYBOARD_RESET_COMMAND: Final = 0xFE
"""Pulses line 0 of the 8042's output port, which a PC connects to the CPU's reset line."""

OUTPUT_BUFFER_FULL: Final = 0x01


RESET_VECTOR_CODE: Final = (
    b"\xb0" + RESET_VALUE.to_bytes(1)  # mov al, RESET_VALUE
    + b"\xba" + RESET_PORT.to_bytes(2, "little")  # mov dx, RESET_PORT
    + b"\xee"  # out dx, al
    + b"\xf4"  # hlt
)  # fmt: skip
"""The code at the BIOS's entry point, for a guest that reboots by a jump there.

Linux does so on hardware-reduced ACPI without EFI, unless its command line says otherwise (``reboot_init`` and
``native_machine_emergency_restart`` in arch/x86/kernel/reboot.c: it tries EFI, which is missing, and then the BIOS).
"""


class PowerRegisters(BusDevice):
    """The sleep and reset registers of hardware-reduced ACPI (ACPI 6.5, sections 4.8.3.6 and 4.8.3.7).

    They take ``POWER_PORT_SIZE`` ports from ``POWER_PORT`` on. All of them read 0, also WAK_STS of the sleep status:
    this machine never wakes from a sleep.
    """

    name = "power"

    def __init__(self, on_poweroff: Callable[[], None], on_reboot: Callable[[], None]) -> None:
        """Both functions are called on a vCPU's thread, possibly more than once, and must return soon."""
        self.on_poweroff = on_poweroff
        self.on_reboot = on_reboot

    def read(self, offset: int, data: memoryview) -> None:
        """All zeros."""
        data[:] = bytes(len(data))

    def write(self, offset: int, data: memoryview) -> None:
        """Power off or reset if a register gets the value for it. A wider write goes to each register in turn."""
        for port, value in enumerate(data, POWER_PORT + offset):
            if port == SLEEP_CONTROL_PORT and value & SLP_EN:
                if (value & SLP_TYP_MASK) >> SLP_TYP_SHIFT == S5_SLP_TYP:
                    self.on_poweroff()
            elif port == RESET_PORT and value == RESET_VALUE:
                self.on_reboot()


class KeyboardReset(BusDevice):
    """The reset command of a keyboard controller at port 0x64, for a machine that has no such controller.

    It takes one port, ``I8042_STATUS_PORT``, if no device claims that.

    Its status always says that a byte waits to be read and that a command may be written. Linux's i8042 driver
    (``i8042_flush`` in drivers/input/serio/i8042.c) reads 16 bytes and concludes that there is no controller. If the
    status were 0, it would wait half a second for an answer to its first command. If it were all ones, Linux would
    also wait before each reset (``kb_wait`` in arch/x86/kernel/reboot.c).
    """

    name = "keyboard-reset"

    def __init__(self, on_reboot: Callable[[], None]) -> None:
        """``on_reboot`` is called on a vCPU's thread, possibly more than once, and must return soon."""
        self.on_reboot = on_reboot

    def read(self, offset: int, data: memoryview) -> None:
        """The status register."""
        data[0] = OUTPUT_BUFFER_FULL

    def write(self, offset: int, data: memoryview) -> None:
        """Reset if it is the command for that."""
        if data[0] == KEYBOARD_RESET_COMMAND:
            self.on_reboot()


class AbsentCmos(BusDevice):
    """Tells a guest quickly that there is no CMOS clock.

    It takes ``CMOS_PORT_SIZE`` ports from ``CMOS_PORT`` on, if no device claims them.

    A guest with ACPI never asks, since the FADT says IAPC_CMOS_RTC_NOT_PRESENT. A guest without ACPI does. All ones,
    the answer of an absent port, mean that the clock is being updated: Linux waits for the end of that for a second
    each time, with tens of thousands of accesses (``mc146818_avoid_UIP`` in drivers/rtc/rtc-mc146818-lib.c). Zeros mean
    a stopped clock in 12-hour mode, which Linux's driver refuses (``cmos_do_probe`` in drivers/rtc/rtc-cmos.c).
    """

    name = "cmos"

    def read(self, offset: int, data: memoryview) -> None:
        """All zeros."""
        data[:] = bytes(len(data))

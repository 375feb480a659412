"""Bits and commands of the 8042, most with their names in Linux (drivers/input/serio/i8042.h)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

DATA: Final = 0
STATUS: Final = 4
"""The offsets of the two ports. A write to the second one is a command."""

# Status
STR_OBF: Final = 0x01
STR_SYS: Final = 0x04
STR_CMDDAT: Final = 0x08
STR_KEYLOCK: Final = 0x10
"""Set: the keyboard is not locked."""

# Control register ("command byte")
CTR_KBDINT: Final = 0x01
CTR_SYS: Final = 0x04
CTR_KBDDIS: Final = 0x10
CTR_AUXDIS: Final = 0x20
CTR_XLATE: Final = 0x40

# Commands
CTL_RCTR: Final = 0x20
CTL_WCTR: Final = 0x60
AUX_DISABLE: Final = 0xA7
AUX_ENABLE: Final = 0xA8
AUX_TEST: Final = 0xA9
CTL_TEST: Final = 0xAA
KBD_TEST: Final = 0xAB
KBD_DISABLE: Final = 0xAD
KBD_ENABLE: Final = 0xAE
READ_INPUT_PORT: Final = 0xC0
READ_OUTPUT_PORT: Final = 0xD0
WRITE_OUTPUT_PORT: Final = 0xD1
KBD_LOOP: Final = 0xD2
AUX_LOOP: Final = 0xD3
AUX_SEND: Final = 0xD4
PULSE: Final = 0xF0
"""The first of 16 commands. Each pulls those lines of the output port low for a moment whose bits are clear."""

WITH_PARAMETER: Final = (CTL_WCTR, WRITE_OUTPUT_PORT, KBD_LOOP, AUX_LOOP, AUX_SEND)

# Answers
CTL_TEST_PASSED: Final = 0x55
KBD_TEST_PASSED: Final = 0x00
AUX_TEST_FAILED: Final = 0x01

INPUT_NOT_LOCKED: Final = 0x80

OUTPUT_RESET: Final = 0x01
"""A PC wires it to the CPU's reset, which is active when the line is low."""

OUTPUT_A20: Final = 0x02

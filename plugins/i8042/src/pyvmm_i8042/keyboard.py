"""A PS/2 keyboard with three keys, enough for a driver (IBM Personal System/2 technical reference)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# Commands to the keyboard.
SET_LEDS: Final = 0xED
ECHO: Final = 0xEE
SCAN_CODE_SET: Final = 0xF0
IDENTIFY: Final = 0xF2
SET_RATE: Final = 0xF3
ENABLE: Final = 0xF4
DISABLE: Final = 0xF5
SET_DEFAULTS: Final = 0xF6
RESEND: Final = 0xFE
RESET: Final = 0xFF

_WITH_PARAMETER: Final = (SET_LEDS, SCAN_CODE_SET, SET_RATE)

# The keyboard's answers.
SELF_TEST_PASSED: Final = 0xAA
ACKNOWLEDGE: Final = 0xFA
NOT_UNDERSTOOD: Final = 0xFE
ID: Final = (0xAB, 0x83)

SET_2: Final = 2
"""The only set of scan codes that it supports."""

# Scan codes of set 2. BREAK comes before the code of a released key.
_LEFT_CTRL, _LEFT_ALT, _DELETE = (0x14,), (0x11,), (0xE0, 0x71)
_EXTENDED, BREAK = 0xE0, 0xF0

BUFFER_SIZE: Final = 32
"""The most bytes that wait for the driver; more are lost. A driver waits for an answer before it sends the next
command."""


def _released(key: tuple[int, ...]) -> tuple[int, ...]:
    return (*key[:-1], BREAK, key[-1])


CTRL_ALT_DEL: Final = (
    *(*_LEFT_CTRL, *_LEFT_ALT, *_DELETE),
    *(*_released(_DELETE), *_released(_LEFT_ALT), *_released(_LEFT_CTRL)),
)


@dataclass
class Keyboard:
    """Answers commands, and presses Ctrl, Alt and Del."""

    output: deque[int] = field(default_factory=deque)
    """Bytes that it has sent and that were not read yet."""

    enabled: bool = True
    """Whether the keyboard sends pressed keys."""

    _last: int = 0
    _parameter_of: int | None = None

    def press_ctrl_alt_del(self) -> bool:
        """Press and release the three keys. Returns whether that could be sent."""
        if not self.enabled or len(self.output) + len(CTRL_ALT_DEL) > BUFFER_SIZE:
            return False
        self._send(*CTRL_ALT_DEL)
        return True

    def receive(self, value: int) -> None:
        """Take a byte from the host."""
        command, self._parameter_of = self._parameter_of, None
        if command is not None and value < SET_LEDS:
            self._take_parameter(command, value)
        elif value in _WITH_PARAMETER:
            self._parameter_of = value
            self._send(ACKNOWLEDGE)
        elif value == ECHO:
            self._send(ECHO)
        elif value == IDENTIFY:
            self._send(ACKNOWLEDGE, *ID)
        elif value in (ENABLE, DISABLE, SET_DEFAULTS):
            self.enabled = value != DISABLE
            self._send(ACKNOWLEDGE)
        elif value == RESEND:
            self._send(self._last)
        elif value == RESET:
            self.output.clear()
            self.enabled = True
            self._send(ACKNOWLEDGE, SELF_TEST_PASSED)
        else:
            self._send(NOT_UNDERSTOOD)

    def read(self) -> int:
        """Take the oldest byte that it has sent."""
        self._last = self.output.popleft()
        return self._last

    def _take_parameter(self, command: int, value: int) -> None:
        if command != SCAN_CODE_SET or value == SET_2:
            self._send(ACKNOWLEDGE)
        elif value == 0:  # 0 asks for the current set
            self._send(ACKNOWLEDGE, SET_2)
        else:
            self._send(NOT_UNDERSTOOD)

    def _send(self, *values: int) -> None:
        if len(self.output) + len(values) <= BUFFER_SIZE:
            self.output.extend(values)

"""Key sequences with which a person at the terminal controls the VMM instead of the guest: Ctrl-a and another key."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

ESCAPE: Final = 0x01
"""Ctrl-a, as in QEMU, kvmtool and screen."""

HELP: Final = (
    b"\r\n"
    b"Ctrl-a x       end the machine\r\n"
    b"Ctrl-a Ctrl-a  send one Ctrl-a to the guest (Ctrl-a a too)\r\n"
    b"Ctrl-a h       this help\r\n"
)


class EscapeKeys:
    """Removes the VMM's key sequences from typed input and acts on them. Unknown sequences are dropped, as in QEMU."""

    def __init__(self, on_quit: Callable[[], None], on_help: Callable[[], None]) -> None:
        self._on_quit = on_quit
        self._on_help = on_help
        self._escaped = False

    def feed(self, data: bytes) -> bytes:
        """The part of ``data`` for the guest. The VMM's key sequences in it are acted on."""
        if not self._escaped and ESCAPE not in data:
            return data
        for_guest = bytearray()
        for byte in data:
            if not self._escaped:
                if byte == ESCAPE:
                    self._escaped = True
                else:
                    for_guest.append(byte)
                continue
            self._escaped = False
            if byte in (ESCAPE, ord("a")):
                for_guest.append(ESCAPE)
            elif byte == ord("x"):
                self._on_quit()
            elif byte in b"h?":
                self._on_help()
        return bytes(for_guest)

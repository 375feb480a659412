"""A process with a console on its standard input and output, for tests: ``console_program.py [broken]``.

Its guest sends back what is typed, each byte in angle brackets, and says ``COLUMNSxROWS`` whenever the device tells it
of a size. ``q`` ends it. With ``broken`` it has broken a ring and does nothing more.
"""

from __future__ import annotations

import sys

from console_guest import Guest
from pyvmm_virtio_console import ConsoleOptions
from pyvmm_virtio_console.constants import VIRTIO_CONSOLE_F_SIZE

VIRTIO_MMIO_INT_CONFIG = 2


def main(command: str = "") -> int:
    """Run until the machine ends; 0, or 3 where the user ended it."""
    with Guest(ConsoleOptions()) as guest:
        guest.up()
        _say(guest, b"ready\r\n")
        if guest.console.has_feature(VIRTIO_CONSOLE_F_SIZE):
            _say_size(guest)
        if command == "broken":
            guest.transmitq.make_available(9999)
            guest.transmitq.kick()
            guest.run()
            assert guest.needs_reset
        while not guest.console.stops:
            typed = b"" if guest.needs_reset else guest.typed()
            resized = bool(guest.interrupt_status & VIRTIO_MMIO_INT_CONFIG)
            if not (typed or resized) or guest.needs_reset:
                if not guest.console.stops:  # which what was typed may have been
                    guest.loop.run_once()
                continue
            if resized:
                guest.acknowledge(VIRTIO_MMIO_INT_CONFIG)
                _say_size(guest)
            guest.post(*[4096] * (32 - guest.receiveq.in_flight))
            _say(guest, b"".join(b"<%c>" % byte for byte in typed))
            if b"q" in typed:
                return 0
    return 3


def _say(guest: Guest, text: bytes) -> None:
    if text:
        guest.say(text)
        guest.transmitq.take_used()


def _say_size(guest: Guest) -> None:
    columns, rows = (int.from_bytes(guest.read_config(at, 2), "little") for at in (0, 2))
    _say(guest, b"%dx%d\r\n" % (columns, rows))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

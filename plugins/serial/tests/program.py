"""A process with a serial port on its standard input and output, for tests: ``program.py COMMAND``.

``echo`` is a guest that sends back what it receives, each byte in angle brackets, until the machine ends or a ``q``
comes. ``flood`` is one that prints, ``flood=SIZE`` so many bytes. ``crash`` is one whose VMM fails. The main thread of
``hang`` hangs in C. ``faulthandler`` is ``echo`` with Python's faulthandler enabled after the terminal is raw, and with
a SIGQUIT that prints where the threads are and ends nothing.
"""

from __future__ import annotations

import ctypes
import faulthandler
import signal
import sys
import threading

from linux_8250 import Linux8250
from pyvmm.device_context import DeviceContext
from pyvmm.exit_reason import ExitReason
from pyvmm.host.eventfd import EventFd
from pyvmm.host.eventloop import EventLoop, LoopScope
from pyvmm_serial import SerialOptions
from pyvmm_serial.device import Serial


def flood(size: int) -> bytes:
    """What a guest prints that prints a lot: all bytes there are, again and again."""
    return (bytes(range(256)) * (size // 256 + 1))[:size]


def main(command: str) -> int:
    """Run until the machine ends; 0, or 3 where the user ended it."""
    command, _, size = command.partition("=")
    loop, irq = EventLoop(), EventFd()
    reasons: list[ExitReason] = []
    ended = threading.Event()

    def stop(reason: ExitReason) -> None:
        reasons.append(reason)
        ended.set()
        irq.signal()
        loop.stop()

    def fail(error: BaseException) -> None:
        raise error

    device = Serial(SerialOptions())
    device.attach(DeviceContext("serial0", LoopScope(loop, fail), stop, irq))
    driver = Linux8250(device, irq)
    if command == "faulthandler":
        faulthandler.enable()
        faulthandler.register(signal.SIGQUIT)
        command = "echo"
    ready = threading.Event()

    def guest() -> None:
        driver.startup()
        driver.console_write(b"ready\r\n")
        ready.set()
        if command == "flood":
            driver.write(flood(int(size)))
        while not ended.is_set() and (driver.xmit or command != "flood"):
            driver.serve_interrupt()
            if command == "echo":
                driver.console_write(b"".join(b"<%c>" % byte for byte in driver.received))
                if b"q" in driver.received:
                    break
                driver.received.clear()
        loop.stop()

    thread = threading.Thread(target=guest, daemon=True)
    if command == "crash":
        raise RuntimeError("the VMM failed")
    thread.start()
    if command == "hang":
        ready.wait()
        while True:
            ctypes.PyDLL(None).pause()  # it keeps the GIL
    loop.run()
    ended.set()
    irq.signal()
    thread.join()
    device.close()
    return 3 if reasons else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""I/O ports that a vCPU's thread serves without Python while their device allows it: see native/fastport.h."""

from __future__ import annotations

from pyvmm._native import ffi, lib
from pyvmm.host.eventfd import EventFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["FastPort", "FastPorts"]


class FastPort:
    """One I/O port, whose accesses need not call the device: writes are collected, reads get a fixed answer.

    At first it is off: each access calls the device, as at any port. Its methods may be called from any thread.
    """

    def __init__(self, ports: FastPorts, native: Any, event: EventFd) -> None:
        self._ports = ports  # `native` points into its memory
        self._native = native
        self.event = event
        """Signalled when bytes wait for :meth:`drain`."""
        self._buffer = ffi.new("uint8_t[]", lib.PYVMM_POST_SIZE)

    def set(self, *, collect_writes: bool = False, answer: int | None = None) -> None:
        """Set which accesses do not call the device from now on.

        With ``collect_writes``, written bytes are collected for :meth:`drain`, up to 8 KiB; a write beyond that calls
        the device. With ``answer``, 0 to 255, reads of one byte return it.
        """
        lib.pyvmm_fast_port_set(self._native, collect_writes, answer is not None, answer or 0)

    def drain(self) -> bytes:
        """Take the bytes that were collected, in order."""
        self.event.drain()
        length = lib.pyvmm_fast_port_drain(self._native, self._buffer)
        return bytes(ffi.buffer(self._buffer, length))


class FastPorts:
    """All fast ports of a machine."""

    def __init__(self) -> None:
        self.native = ffi.new("struct pyvmm_fast_ports *")

    def add(self, port: int) -> FastPort | None:
        """A new fast port for ``port``; None if there are 16 already. The caller must close its event."""
        event = EventFd()
        native = lib.pyvmm_fast_ports_add(self.native, port, event.fd)
        if native == ffi.NULL:
            event.close()
            return None
        return FastPort(self, native, event)

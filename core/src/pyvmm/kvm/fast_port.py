"""Ports that a vCPU's thread serves by itself while their device allows it: see native/fastport.h."""

from __future__ import annotations

from pyvmm._native import ffi, lib
from pyvmm.host.eventfd import EventFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["FastPort", "FastPorts"]


class FastPort:
    """One port whose bytes may be collected, or answered, without a call of the device.

    Off at first: each access is a call of the device, as for any port. From any thread.
    """

    def __init__(self, ports: FastPorts, native: Any, event: EventFd) -> None:
        self._ports = ports  # whose memory `native` points into
        self._native = native
        self.event = event
        """Signalled when bytes wait for :meth:`drain`."""
        self._buffer = ffi.new("uint8_t[]", lib.PYVMM_POST_SIZE)

    def set(self, *, collect_writes: bool = False, answer: int | None = None) -> None:
        """Say what may happen without a call of the device, from the next access on.

        With ``collect_writes`` bytes written are collected for :meth:`drain`, up to 8 KiB; a write beyond that is
        a call as usual. With ``answer``, 0 to 255, reads of one byte are answered with it.
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
        """A fast port for ``port``; None where there are 16 already. Its event is the caller's to close."""
        event = EventFd()
        native = lib.pyvmm_fast_ports_add(self.native, port, event.fd)
        if native == ffi.NULL:
            event.close()
            return None
        return FastPort(self, native, event)

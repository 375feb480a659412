"""Huge pages of what the guest comes to use: whether the kernel makes them by itself, and who makes them beside it."""

from __future__ import annotations

from pyvmm._native import lib
from pyvmm.host.eventfd import EventFd
from pyvmm.startup.threads import begin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Self

    from pyvmm.memory import GuestMemory

__all__ = ["PageJoiner", "at_first_use"]

_SETTINGS: Final = "/sys/kernel/mm/transparent_hugepage"


def at_first_use() -> bool:
    """Whether the host makes huge pages of anonymous memory that asks for them, when it is used first."""
    # The second, for pages of 2 MiB alone, is there from Linux 6.8 on.
    settings = [_setting("enabled"), _setting("hugepages-2048kB/enabled")]
    return settings[0] != b"" and not any(b"[never]" in setting for setting in settings)


def _setting(name: str) -> bytes:
    """Empty for one that this kernel does not have."""
    try:
        with open(f"{_SETTINGS}/{name}", "rb", 0) as file:
            return file.read(64)
    except OSError:
        return b""


class PageJoiner:
    """Has the kernel make huge pages of what comes to be used of a guest's memory, on a thread without the GIL.

    A memfd comes in pages of 4 KiB, each of which is a fault of the guest when it is used first: half a boot's time
    where faults are dear. A range of 2 MiB of which 64 KiB are used is made one page (MADV_COLLAPSE, Linux 6.1), which
    KVM then maps as one; where the kernel cannot, memory stays as it is.
    """

    def __init__(self, memory: GuestMemory) -> None:
        """``memory`` stays open until :meth:`close`."""
        self._stop = EventFd()
        native = memory.native()
        self._join = begin(lambda: lib.pyvmm_memory_keep_joined(native, self._stop.fd), "memory")

    def close(self) -> None:
        """End the thread; closing twice does nothing."""
        if self._stop.fd >= 0:
            self._stop.signal()
            self._join()
            self._stop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

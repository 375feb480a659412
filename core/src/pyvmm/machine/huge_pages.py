"""Huge pages for the memory that the guest uses: whether the kernel makes them itself, and a thread that makes them."""

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
    """Whether the host makes huge pages of anonymous memory on request (madvise(2)) at its first use."""
    # The second setting, for pages of 2 MiB only, exists from Linux 6.8 on.
    settings = [_setting("enabled"), _setting("hugepages-2048kB/enabled")]
    return settings[0] != b"" and not any(b"[never]" in setting for setting in settings)


def _setting(name: str) -> bytes:
    """The content of a setting; empty if this kernel does not have it."""
    try:
        with open(f"{_SETTINGS}/{name}", "rb", 0) as file:
            return file.read(64)
    except OSError:
        return b""


class PageJoiner:
    """Makes huge pages of the guest memory that is in use, by the kernel, on a thread without the GIL.

    A memfd has pages of 4 KiB. The first use of each page is a page fault of the guest, which takes half of a boot's
    time if faults are slow. Once 64 KiB of a 2 MiB range are used, the range is made one page (MADV_COLLAPSE, Linux
    6.1), which KVM maps as one page. If the kernel cannot do that, memory stays as it is.
    """

    def __init__(self, memory: GuestMemory) -> None:
        """``memory`` must stay open until :meth:`close`."""
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

"""vhost: a virtio device's queues, served by the kernel (<linux/vhost.h>), such as vhost-net.

The kernel takes kicks from the queue's eventfd and signals the transport's. It accesses guest memory at the addresses
at which the process that set it up has mapped it.
"""

from __future__ import annotations

import fcntl
import os

from pyvmm._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from pyvmm.memory import GuestAddress, GuestMemory, GuestRegion
    from pyvmm.virtio.queue import Queue

__all__ = ["Vhost", "VhostNet"]

_NO_BACKEND: Final = -1


class Vhost:
    """One vhost device of the kernel, with a worker of its own. Raises OSError if the kernel refuses."""

    def __init__(self, path: str) -> None:
        """Open ``path``, such as /dev/vhost-net."""
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._owned = False
        self._regions: list[tuple[GuestRegion, int]] = []
        features = bytearray(8)
        try:
            fcntl.ioctl(self.fd, lib.VHOST_GET_FEATURES, features)
        except BaseException:
            self.close()
            raise
        self.features = int.from_bytes(features, "little")
        """The virtio features that the kernel can serve, and bits of vhost's own."""

    def set_up(self, memory: GuestMemory, features: int) -> None:
        """Give the kernel this process's ``memory``, and the driver's ``features`` that the kernel serves.

        Call it before :meth:`VhostNet.start`, while no ring is served.
        """
        if not self._owned:
            fcntl.ioctl(self.fd, lib.VHOST_SET_OWNER)
            self._owned = True
        fcntl.ioctl(self.fd, lib.VHOST_SET_FEATURES, (features & self.features).to_bytes(8, "little"))
        self._regions = [(region, memory.host_address(region)) for region in memory.regions]
        table = ffi.new("struct vhost_memory *", {"regions": len(self._regions)})
        table.nregions = len(self._regions)
        for i, (region, address) in enumerate(self._regions):
            table.regions[i].guest_phys_addr = region.base
            table.regions[i].memory_size = region.size
            table.regions[i].userspace_addr = address
        self._ioctl(lib.VHOST_SET_MEM_TABLE, table)

    def set_up_ring(self, index: int, queue: Queue, base: int, err_fd: int) -> None:
        """Make the active ``queue`` the kernel's ring ``index``, from available entry ``base`` on.

        ``err_fd``: an eventfd that the kernel signals if the ring is broken.
        """
        assert queue.interrupt is not None
        self._ioctl(lib.VHOST_SET_VRING_NUM, _state(index, queue.size))
        self._ioctl(lib.VHOST_SET_VRING_BASE, _state(index, base))
        addresses = ffi.new("struct vhost_vring_addr *")
        addresses.index = index
        addresses.desc_user_addr = self._address(queue.descriptor_table)
        addresses.avail_user_addr = self._address(queue.available_ring)
        addresses.used_user_addr = self._address(queue.used_ring)
        self._ioctl(lib.VHOST_SET_VRING_ADDR, addresses)
        self._ioctl(lib.VHOST_SET_VRING_KICK, _file(index, queue.event.fd))
        self._ioctl(lib.VHOST_SET_VRING_CALL, _file(index, queue.interrupt.call_fd))
        self._ioctl(lib.VHOST_SET_VRING_ERR, _file(index, err_fd))

    def ring_base(self, index: int) -> int:
        """The available entry from which to continue ring ``index`` after it was stopped."""
        state = _state(index, 0)
        self._ioctl(lib.VHOST_GET_VRING_BASE, state)
        return int(state.num) & 0xFFFF

    def close(self) -> None:
        """Close the device; the kernel serves no more. Closing twice does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _address(self, address: GuestAddress) -> int:
        """This process's address for the guest address ``address``, which belongs to a checked ring."""
        for region, host in self._regions:
            if region.base <= address < region.end:
                return host + address - region.base
        raise ValueError(f"no guest memory at {address:#x}")

    def _ioctl(self, request: int, argument: Any) -> None:
        fcntl.ioctl(self.fd, request, ffi.buffer(argument))


class VhostNet(Vhost):
    """vhost-net: it moves frames between two rings and a tap or a socket."""

    def start(self, index: int, backend: int) -> None:
        """Serve ring ``index`` (0 to receive, 1 to send) with the descriptor ``backend``."""
        self._ioctl(lib.VHOST_NET_SET_BACKEND, _file(index, backend))

    def stop(self, index: int) -> int:
        """Stop serving ring ``index``; after the return nothing touches it. Returns the available entry to continue
        from."""
        self._ioctl(lib.VHOST_NET_SET_BACKEND, _file(index, _NO_BACKEND))
        return self.ring_base(index)


def _state(index: int, number: int) -> Any:
    return ffi.new("struct vhost_vring_state *", {"index": index, "num": number})


def _file(index: int, fd: int) -> Any:
    return ffi.new("struct vhost_vring_file *", {"index": index, "fd": fd})

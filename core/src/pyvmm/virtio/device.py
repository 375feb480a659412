"""The contract between a virtio device and its transport."""

from __future__ import annotations

from pyvmm._native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm.device_context import DeviceContext
    from pyvmm.host.loop_thread import LoopThread
    from pyvmm.memory import GuestMemory
    from pyvmm.virtio.interrupt import Interrupt
    from pyvmm.virtio.queue import Queue

__all__ = ["VirtioDevice"]


class VirtioDevice:
    """A virtio device, whatever the transport (virtio 1.2, section 2).

    A device's life: made from its options; :meth:`attach`; then, as often as the driver wants, feature
    negotiation, :meth:`activate`, :meth:`on_kick` and the device's own callbacks, :meth:`reset`; at last
    :meth:`close`. All of these run on the thread of ``context.loop``, one call at a time, so a device needs no locks
    and must not block. An exception that leaves a method fails the device, not the machine: the driver sees
    DEVICE_NEEDS_RESET and the log has the traceback.

    A subclass sets ``device_type`` and ``queue_max_sizes``, usually ``device_features`` and ``config``, and
    writes :meth:`on_kick`; the other methods have defaults that are right for most.
    """

    device_type: int
    """The device's virtio ID (virtio 1.2, section 5; <linux/virtio_ids.h>)."""

    queue_max_sizes: Sequence[int] = ()
    """For each queue, the largest size that the driver may choose: a power of two up to 32768."""

    device_features: int = 0
    """The device's own feature bits, as one number. The transport adds those of ring and transport."""

    ring_features: int = 1 << lib.VIRTIO_RING_F_INDIRECT_DESC | 1 << lib.VIRTIO_RING_F_EVENT_IDX
    """The ring features that the queues' server knows: all of :class:`Queue`'s, unless another process serves them."""

    own_loop: LoopThread | None = None
    """A loop of the device's own, used instead of the machine's. A device that waits for another process needs one,
    so that no other device waits. Set before the device is attached; the transport starts and closes it."""

    needs_memfd: bool = False
    """Whether :attr:`GuestMemory.fds` must not be empty: the device hands the memory on to another process, or gives
    single pages of it back to the host. Its :class:`~pyvmm.plugin.DeviceKind` says the same."""

    acked_features: int = 0
    """The features that the driver accepted, set during negotiation."""

    identity: str = ""
    """The identity of the device's resources, such as a disk's file. A device that replaces this one (``restart=on``)
    must have the same."""

    config: bytes | bytearray = b""
    """The device's configuration space, little-endian, as the driver reads it."""

    context: DeviceContext
    memory: GuestMemory
    interrupt: Interrupt
    queues: Sequence[Queue] = ()
    """Set while the device is active. A queue that the driver did not enable is there, with ``ready`` false."""

    @property
    def name(self) -> str:
        """The name that the device's log lines begin with: :attr:`DeviceContext.title`."""
        return self.context.title

    def has_feature(self, bit: int) -> bool:
        """Whether the driver accepted feature ``bit``."""
        return bool(self.acked_features >> bit & 1)

    def attach(self, context: DeviceContext) -> None:
        """Store the device's place in the machine. Called once, before any other method."""
        self.context = context

    def features(self, page: int) -> int:
        """Feature bits ``32 * page`` to ``32 * page + 31`` that the device offers."""
        return self.device_features >> 32 * page & 0xFFFFFFFF

    def ack_features(self, page: int, value: int) -> None:
        """Take the driver's choice for one page of features; the transport lets only offered ones through."""
        mask = 0xFFFFFFFF << 32 * page
        self.acked_features = self.acked_features & ~mask | value << 32 * page

    def read_config(self, offset: int, data: memoryview) -> None:
        """Fill ``data`` (any length) from the configuration space. Bytes past its end read as zeros."""
        part = bytes(self.config[offset : offset + len(data)])
        data[:] = part + bytes(len(data) - len(part))

    def write_config(self, offset: int, data: memoryview) -> None:
        """Take the driver's write to the configuration space. Ignored here: most fields are read-only."""

    def activate(self, mem: GuestMemory, interrupt: Interrupt, queues: Sequence[Queue]) -> None:
        """Start to serve: the driver has set DRIVER_OK. By default each ready queue's kick calls on_kick."""
        self.memory = mem
        self.interrupt = interrupt
        self.queues = queues
        for queue in queues:
            if queue.ready:
                self.context.loop.add(queue.event.fd, lambda _, queue=queue: self._kicked(queue))  # type: ignore[misc]

    def on_kick(self, queue: Queue) -> None:
        """Serve ``queue``: the driver has (probably) made buffers available. Chains completed here are published on
        return.

        One call may serve all available chains, or some, or none. Chains that are not taken stay available, but no
        other kick comes for them. ``for chain in queue`` ends by itself after twice the queue's size, however fast the
        driver adds chains, and the queue is then kicked again. A loop of ``queue.pop()`` must end itself;
        ``queue.event.signal()`` makes the loop call this method once more.

        While the method runs, accesses to the device's registers wait, a reset too, and the vCPU that makes them. In
        the VMM's process (``process=off``), all other devices there wait as well. So a call should take milliseconds.
        Do longer work in pieces, or elsewhere (:mod:`pyvmm.host.aio`, or a thread that ends by ``context.loop.post``),
        and complete the chain when the work is done. The VMM kills a device's process that does not answer for ten
        seconds.
        """
        raise NotImplementedError(f"{type(self).__name__} has queues and no on_kick")

    def reset(self) -> bool:
        """Stop: no access to guest memory after the return. Returns whether that succeeded; if so, activate may follow.

        A subclass that has I/O in flight waits for it or cancels it first, then calls this.
        """
        for queue in self.queues:
            self.context.loop.remove(queue.event.fd)
        self.queues = ()
        self.acked_features = 0
        return True

    def end(self, active: bool) -> None:
        """End the device with its machine: :meth:`reset` it if it is ``active``, then :meth:`close` it."""
        if active:
            self.reset()
        self.close()

    def close(self) -> None:
        """Release the host's resources that the device holds. This is the last call, after a reset."""

    def _kicked(self, queue: Queue) -> None:
        queue.event.drain()
        self.on_kick(queue)

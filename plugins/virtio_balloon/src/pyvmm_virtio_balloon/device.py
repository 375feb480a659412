"""virtio-balloon: memory that the guest gives up goes back to the host (virtio 1.2, section 5.5)."""

from __future__ import annotations

import array
import struct

from pyvmm.limits import PAGE_SIZE
from pyvmm.logs import logger
from pyvmm.memory import GuestAddress, GuestMemory, GuestMemoryError
from pyvmm.options import format_size
from pyvmm.virtio.constants import VIRTIO_ID_BALLOON
from pyvmm.virtio.device import VirtioDevice

from pyvmm_virtio_balloon import statistics
from pyvmm_virtio_balloon.constants import (
    VIRTIO_BALLOON_F_DEFLATE_ON_OOM,
    VIRTIO_BALLOON_F_PAGE_POISON,
    VIRTIO_BALLOON_F_REPORTING,
    VIRTIO_BALLOON_F_STATS_VQ,
    VIRTIO_BALLOON_PFN_SHIFT,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Final

    from pyvmm.device_context import DeviceContext
    from pyvmm.host.eventloop import Timer
    from pyvmm.virtio.interrupt import Interrupt
    from pyvmm.virtio.queue import DescriptorChain, Queue

    from pyvmm_virtio_balloon import BalloonOptions
    from pyvmm_virtio_balloon.commands import Commands

log = logger(__name__)

QUEUE_SIZE: Final = 128
INFLATE, DEFLATE, STATS = 0, 1, 2

MAX_PAGES: Final = 1024
"""Pages that one request can give up; Linux sends 256. What comes behind them stays the guest's, for a device need not
take what it is given (section 5.5.6.1)."""

_CONFIG: Final = struct.Struct("<IIII")
"""struct virtio_balloon_config: num_pages, actual, free_page_hint_cmd_id, poison_val."""

_DRIVERS: Final = (*range(4, 8), *range(12, 16))
"""Bytes of the configuration that are the driver's to write: actual and poison_val."""


class Balloon(VirtioDevice):
    """A balloon in the guest's memory: what it holds, the host has back.

    Pages of the balloon, and free pages that the driver reports, become holes in the guest's memory. They come back,
    as zeros, when the guest touches them; so nothing has to be done when the balloon is deflated.
    """

    device_type = VIRTIO_ID_BALLOON
    queue_max_sizes = (QUEUE_SIZE,) * 5
    needs_memfd = True  # of a huge page of anonymous memory, a part goes back when the host runs short, and not before
    config: bytearray

    def __init__(self, options: BalloonOptions) -> None:
        features = [VIRTIO_BALLOON_F_STATS_VQ]
        if options.deflate_on_oom:
            features += [VIRTIO_BALLOON_F_DEFLATE_ON_OOM]
        if options.reporting:
            # A guest that overwrites what it frees does not report without it.
            features += [VIRTIO_BALLOON_F_REPORTING, VIRTIO_BALLOON_F_PAGE_POISON]
        self.device_features = sum(1 << bit for bit in features)
        self.config = bytearray(_CONFIG.size)
        self.interval = options.stats
        self.statistics: dict[str, int] = {}
        """What the guest said last of its memory: see :data:`pyvmm_virtio_balloon.statistics.NAMES`."""
        self.on_statistics: list[Callable[[], None]] = []
        """Called, once, when the guest has said it anew, or is gone."""
        self._asked: DescriptorChain | None = None
        """The buffer that the driver gets back when it is to fill it with new statistics."""
        self._timer: Timer | None = None
        self._told = False
        self.target = options.size
        self._commands: Commands | None = None
        if options.socket is not None:
            from pyvmm_virtio_balloon.commands import Commands

            self._commands = Commands(self, options.socket)

    @property
    def target(self) -> int:
        """Bytes that the guest is to give up: whole pages of 4 KiB."""
        return int(_CONFIG.unpack(self.config)[0]) << VIRTIO_BALLOON_PFN_SHIFT

    @target.setter
    def target(self, size: int) -> None:
        self.config[0:4] = (size >> VIRTIO_BALLOON_PFN_SHIFT).to_bytes(4, "little")
        if self.queues:
            self.interrupt.signal_config_change()

    @property
    def actual(self) -> int:
        """Bytes that the guest says it has given up."""
        return int(_CONFIG.unpack(self.config)[1]) << VIRTIO_BALLOON_PFN_SHIFT

    def attach(self, context: DeviceContext) -> None:
        super().attach(context)
        if self._commands is not None:
            self._commands.attach()

    def ack_features(self, page: int, value: int) -> None:
        super().ack_features(page, value)
        for at in _DRIVERS:
            self.config[at] = 0  # a driver that begins has an empty balloon

    def write_config(self, offset: int, data: memoryview) -> None:
        """The driver's say: how large the balloon is, and what it fills free pages with."""
        for at, value in enumerate(data, offset):
            if at in _DRIVERS:
                self.config[at] = value

    def activate(self, mem: GuestMemory, interrupt: Interrupt, queues: Sequence[Queue]) -> None:
        super().activate(mem, interrupt, queues)
        self._told = False
        if self.target > mem.size:
            log.warning("%s: the target of %s is more than the guest has", self.name, format_size(self.target))
        if self.interval:
            self._timer = self.context.loop.call_later(self.interval, self._ask_and_log)

    def on_kick(self, queue: Queue) -> None:
        chain = queue.pop()
        if chain is None:
            return
        queue.event.signal()  # one request at a turn: giving memory back takes its time
        if queue.index == STATS and self.has_feature(VIRTIO_BALLOON_F_STATS_VQ):
            self._take_statistics(chain)
            return
        if queue.index == INFLATE:
            self._inflate(chain)
        elif queue.index != DEFLATE:
            # The reporting queue, wherever it is. By section 5.5.2 it is queue 4. Linux and QEMU leave out the queues
            # before it whose features are not there, so it is 3 or 2; and the free page queue is never there.
            self._take_report(chain)
        chain.complete()

    def ask_statistics(self) -> bool:
        """Have the guest say anew what its memory is like; whether it can."""
        if not self.queues or not self.has_feature(VIRTIO_BALLOON_F_STATS_VQ):
            return False
        if self._asked is not None:
            chain, self._asked = self._asked, None
            chain.complete()
        return True

    def reset(self) -> bool:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._asked = None
        self.statistics = {}
        done = super().reset()
        self._statistics_came()
        return done

    def close(self) -> None:
        if self._commands is not None:
            self._commands.close()

    def _inflate(self, chain: DescriptorChain) -> None:
        """Take the pages whose numbers are in ``chain`` (section 5.5.6)."""
        numbers = array.array("I", chain.read(0, min(chain.readable_length // 4, MAX_PAGES) * 4))
        for address, length in _ranges(numbers):
            if self.memory.contains(address, length):
                self._discard(address, length)
            else:  # in part, at best
                for page in range(address, address + length, PAGE_SIZE):
                    self._discard(page, PAGE_SIZE)

    def _take_report(self, chain: DescriptorChain) -> None:
        """Take the free pages that ``chain`` has for buffers (section 5.5.6.7)."""
        if not self.has_feature(VIRTIO_BALLOON_F_REPORTING):
            return
        if self.has_feature(VIRTIO_BALLOON_F_PAGE_POISON) and any(self.config[12:16]):
            return  # the guest wants to find them as it left them, and that is not zeros
        for view in (*chain.readable, *chain.writable):
            self._discard(self.memory.address_of(view), len(view))

    def _discard(self, address: GuestAddress, length: int) -> None:
        try:
            self.memory.discard(address, length)
        except GuestMemoryError as error:
            log.debug("%s: %s", self.name, error)  # not the host's to have
        except OSError as error:
            if not self._told:
                self._told = True
                log.warning("%s: the host cannot have memory back: %s", self.name, error.strerror)

    def _take_statistics(self, chain: DescriptorChain) -> None:
        """Keep ``chain`` until new statistics are wanted (section 5.5.6.3)."""
        if self._asked is not None:
            self._asked.complete()  # one is enough
        self._asked = chain
        self.statistics = statistics.parse(chain.read(0, statistics.MAX_BYTES))
        self._statistics_came()

    def _statistics_came(self) -> None:
        waiting, self.on_statistics = self.on_statistics, []
        for function in waiting:
            function()

    def _ask_and_log(self) -> None:
        self._timer = self.context.loop.call_later(self.interval, self._ask_and_log)
        if self._log_statistics not in self.on_statistics:  # the guest may not have answered the last time
            self.on_statistics.append(self._log_statistics)
        self.ask_statistics()

    def _log_statistics(self) -> None:
        said = ", ".join(f"{name} {value}" for name, value in self.statistics.items())
        if said:
            log.info("%s: target %d, actual %d, %s", self.name, self.target, self.actual, said)


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[GuestAddress, int]]:
    """The pages with these numbers as ranges of (address, length), as few as there can be."""
    first = last = -1
    for number in sorted(set(numbers)):
        if number != last + 1 or last < 0:
            if last >= 0:
                yield first << VIRTIO_BALLOON_PFN_SHIFT, last - first + 1 << VIRTIO_BALLOON_PFN_SHIFT
            first = number
        last = number
    if last >= 0:
        yield first << VIRTIO_BALLOON_PFN_SHIFT, last - first + 1 << VIRTIO_BALLOON_PFN_SHIFT

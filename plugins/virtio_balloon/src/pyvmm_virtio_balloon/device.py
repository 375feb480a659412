"""virtio-balloon: it returns memory that the guest gives up to the host (virtio 1.2, section 5.5)."""

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
"""The most pages that one request can give up; Linux sends 256. Further pages stay with the guest, since a device need
not take all pages (section 5.5.6.1)."""

_CONFIG: Final = struct.Struct("<IIII")
"""struct virtio_balloon_config: num_pages, actual, free_page_hint_cmd_id, poison_val."""

_DRIVERS: Final = (*range(4, 8), *range(12, 16))
"""The bytes of the configuration that the driver may write: actual and poison_val."""


class Balloon(VirtioDevice):
    """A balloon in the guest's memory. The host gets back the pages that it holds.

    Pages of the balloon, and free pages that the driver reports, become holes in the guest's memory. They come back as
    zeros when the guest touches them, so deflating the balloon needs no work.
    """

    device_type = VIRTIO_ID_BALLOON
    queue_max_sizes = (QUEUE_SIZE,) * 5
    needs_memfd = True  # the host takes back part of an anonymous huge page only when it runs short of memory
    config: bytearray

    def __init__(self, options: BalloonOptions) -> None:
        features = [VIRTIO_BALLOON_F_STATS_VQ]
        if options.deflate_on_oom:
            features += [VIRTIO_BALLOON_F_DEFLATE_ON_OOM]
        if options.reporting:
            # A guest that poisons freed pages does not report them without PAGE_POISON.
            features += [VIRTIO_BALLOON_F_REPORTING, VIRTIO_BALLOON_F_PAGE_POISON]
        self.device_features = sum(1 << bit for bit in features)
        self.config = bytearray(_CONFIG.size)
        self.interval = options.stats
        self.statistics: dict[str, int] = {}
        """The guest's last memory statistics: see :data:`pyvmm_virtio_balloon.statistics.NAMES`."""
        self.on_statistics: list[Callable[[], None]] = []
        """Functions to call once when the guest has sent new statistics, or its driver is gone."""
        self._asked: DescriptorChain | None = None
        """The driver's buffer for statistics. The driver gets it back in order to fill it again."""
        self._timer: Timer | None = None
        self._told = False
        self.target = options.size
        self._commands: Commands | None = None
        if options.socket is not None:
            from pyvmm_virtio_balloon.commands import Commands

            self._commands = Commands(self, options.socket)

    @property
    def target(self) -> int:
        """The bytes that the guest should give up: whole pages of 4 KiB."""
        return int(_CONFIG.unpack(self.config)[0]) << VIRTIO_BALLOON_PFN_SHIFT

    @target.setter
    def target(self, size: int) -> None:
        self.config[0:4] = (size >> VIRTIO_BALLOON_PFN_SHIFT).to_bytes(4, "little")
        if self.queues:
            self.interrupt.signal_config_change()

    @property
    def actual(self) -> int:
        """The bytes that the guest reports to have given up."""
        return int(_CONFIG.unpack(self.config)[1]) << VIRTIO_BALLOON_PFN_SHIFT

    def attach(self, context: DeviceContext) -> None:
        super().attach(context)
        if self._commands is not None:
            self._commands.attach()

    def ack_features(self, page: int, value: int) -> None:
        super().ack_features(page, value)
        for at in _DRIVERS:
            self.config[at] = 0  # a new driver has an empty balloon

    def write_config(self, offset: int, data: memoryview) -> None:
        """Take the driver's values: the balloon's actual size, and the poison value of free pages."""
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
        queue.event.signal()  # one request per turn, since returning memory takes long
        if queue.index == STATS and self.has_feature(VIRTIO_BALLOON_F_STATS_VQ):
            self._take_statistics(chain)
            return
        if queue.index == INFLATE:
            self._inflate(chain)
        elif queue.index != DEFLATE:
            # This is the reporting queue, whatever its number. By section 5.5.2 it is queue 4. Linux and QEMU skip
            # queues whose features are missing, so it is 3 or 2. The free page queue does not exist here.
            self._take_report(chain)
        chain.complete()

    def ask_statistics(self) -> bool:
        """Ask the guest for new memory statistics. Returns whether its driver supports them."""
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
            else:  # at most a part of it is guest memory
                for page in range(address, address + length, PAGE_SIZE):
                    self._discard(page, PAGE_SIZE)

    def _take_report(self, chain: DescriptorChain) -> None:
        """Take the free pages, which are the buffers of ``chain`` (section 5.5.6.7)."""
        if not self.has_feature(VIRTIO_BALLOON_F_REPORTING):
            return
        if self.has_feature(VIRTIO_BALLOON_F_PAGE_POISON) and any(self.config[12:16]):
            return  # the guest expects its poison value in them, not zeros
        for view in (*chain.readable, *chain.writable):
            self._discard(self.memory.address_of(view), len(view))

    def _discard(self, address: GuestAddress, length: int) -> None:
        try:
            self.memory.discard(address, length)
        except GuestMemoryError as error:
            log.debug("%s: %s", self.name, error)  # it is not guest memory
        except OSError as error:
            if not self._told:
                self._told = True
                log.warning("%s: memory cannot be returned to the host: %s", self.name, error.strerror)

    def _take_statistics(self, chain: DescriptorChain) -> None:
        """Read the statistics, and keep ``chain`` until new ones are wanted (section 5.5.6.3)."""
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
        if self._log_statistics not in self.on_statistics:  # the guest may not have answered the last request
            self.on_statistics.append(self._log_statistics)
        self.ask_statistics()

    def _log_statistics(self) -> None:
        said = ", ".join(f"{name} {value}" for name, value in self.statistics.items())
        if said:
            log.info("%s: target %d, actual %d, %s", self.name, self.target, self.actual, said)


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[GuestAddress, int]]:
    """The pages with these numbers, as the fewest possible ranges of (address, length)."""
    first = last = -1
    for number in sorted(set(numbers)):
        if number != last + 1 or last < 0:
            if last >= 0:
                yield first << VIRTIO_BALLOON_PFN_SHIFT, last - first + 1 << VIRTIO_BALLOON_PFN_SHIFT
            first = number
        last = number
    if last >= 0:
        yield first << VIRTIO_BALLOON_PFN_SHIFT, last - first + 1 << VIRTIO_BALLOON_PFN_SHIFT

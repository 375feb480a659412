"""virtio-blk: a disk for the guest (virtio 1.2, section 5.2)."""

from __future__ import annotations

import errno
import os
import struct

from pyvmm.host.aio import MAX_DEPTH, IoEngine
from pyvmm.logs import logger
from pyvmm.virtio.constants import VIRTIO_ID_BLOCK
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.file_requests import TransferFormat, Transfers

from pyvmm_virtio_block.constants import (
    SECTOR_SIZE,
    VIRTIO_BLK_F_BLK_SIZE,
    VIRTIO_BLK_F_CONFIG_WCE,
    VIRTIO_BLK_F_DISCARD,
    VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES,
    VIRTIO_BLK_ID_BYTES,
    VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
)
from pyvmm_virtio_block.image import Image
from pyvmm_virtio_block.ranges import Discard, WriteZeroes
from pyvmm_virtio_block.request import (
    MAX_SEGMENT_SECTORS,
    MAX_SEGMENTS,
    RequestError,
    read_header,
    read_segments,
    set_status,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from pyvmm.memory import GuestMemory
    from pyvmm.virtio.interrupt import Interrupt
    from pyvmm.virtio.queue import DescriptorChain, Queue

    from pyvmm_virtio_block import BlockOptions

log = logger(__name__)

QUEUE_SIZE: Final = 256
"""The most requests that a queue can hold. Many queues share the requests that an engine can have in flight."""

_CONFIG: Final = struct.Struct("<QII4xIBBHIBxHIIIIIB3x")
"""struct virtio_blk_config up to write_zeroes_may_unmap; size_max and geometry are not offered."""

_WCE: Final = 32
"""The offset of the configuration's field writeback."""

_FORMAT: Final = TransferFormat(
    header_size=16,
    type_offset=0,
    position_offset=8,
    unit=SECTOR_SIZE,
    read_type=VIRTIO_BLK_T_IN,
    write_type=VIRTIO_BLK_T_OUT,
    done=VIRTIO_BLK_S_OK,
    failed=VIRTIO_BLK_S_IOERR,
)
"""Reads and writes: struct virtio_blk_outhdr, data, status (section 5.2.6)."""


def _queue_size(queues: int) -> int:
    """The size of each of ``queues`` queues: a power of two, so that the engine can have all their requests in
    flight."""
    size = QUEUE_SIZE
    while size * queues > MAX_DEPTH:
        size //= 2
    return size


class Block(VirtioDevice):
    """A disk backed by an :class:`Image`.

    Native code moves the data of valid reads and writes between ring and file (:class:`Transfers`); this class does
    everything else. An error of the host fails only the request that met it. FLUSH is fdatasync(2): it covers the
    writes that were completed before it. While the driver wants write-through, each write is synchronous (RWF_DSYNC).
    """

    device_type = VIRTIO_ID_BLOCK
    config: bytearray

    def __init__(self, options: BlockOptions) -> None:
        self.image = Image(options.path, read_only=options.ro, direct=options.direct)
        self.identity = self.image.identity
        self.serial = options.id.encode() if options.id else b""
        self.queue_size = _queue_size(options.queues)
        self.queue_max_sizes = (self.queue_size,) * options.queues
        self._transfers: list[Transfers] = []
        self.writeback = True
        """Whether writes may stay in the host's cache until a FLUSH."""
        features = [VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_FLUSH]
        if options.queues > 1:
            features += [VIRTIO_BLK_F_MQ]
        if options.ro:
            features += [VIRTIO_BLK_F_RO]
        else:
            features += [VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]
        self.device_features = sum(1 << bit for bit in features)
        self.config = bytearray(self._make_config())
        self._engine: IoEngine | None = None
        self._refused_modes: set[int] = set()
        self._told: set[int] = set()

    def ack_features(self, page: int, value: int) -> None:
        super().ack_features(page, value)
        # A driver that does not know FLUSH gets write-through (section 5.2.5.2).
        self.writeback = self.has_feature(VIRTIO_BLK_F_FLUSH)
        self.config[_WCE] = self.writeback

    def write_config(self, offset: int, data: memoryview) -> None:
        """Take the driver's choice between write-back (1) and write-through (0)."""
        if offset == _WCE and len(data) == 1 and data[0] < 2 and self.has_feature(VIRTIO_BLK_F_CONFIG_WCE):
            self.config[_WCE] = data[0]
            self.writeback = bool(data[0])
            self._set_writes()

    def activate(self, mem: GuestMemory, interrupt: Interrupt, queues: Sequence[Queue]) -> None:
        self._told.clear()
        ready = [queue for queue in queues if queue.ready]
        loop = self.context.loop if len(ready) == 1 else None
        self._transfers = [
            Transfers(queue, mem, self.engine, self.image.file, _FORMAT, end=self.image.size, loop=loop)
            for queue in ready
        ]
        self._set_writes()
        self.context.loop.add(self.engine.fd, self._serve)
        super().activate(mem, interrupt, queues)

    def on_kick(self, queue: Queue) -> None:
        self._serve()

    def reset(self) -> bool:
        if self._engine is not None:
            self.context.loop.remove(self._engine.fd)
            self._engine.drain(cancel=True)
        self._transfers = []
        return super().reset()

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        self.image.close()

    @property
    def write_flags(self) -> int:
        """The flags of pwritev2(2) for writes."""
        return 0 if self.writeback else os.RWF_DSYNC

    @property
    def engine(self) -> IoEngine:
        """The engine for operations that may block. It is made when it is first needed, in the process that serves the
        device."""
        if self._engine is None:
            self._engine = IoEngine(sum(self.queue_max_sizes))
        return self._engine

    def _make_config(self) -> bytes:
        image = self.image
        # Ranges smaller than a block of the file system are zeroed, but free no space.
        alignment = image.physical_block_size // SECTOR_SIZE
        segments = (0, 0) if image.read_only else (MAX_SEGMENT_SECTORS, MAX_SEGMENTS)
        return _CONFIG.pack(
            image.size // SECTOR_SIZE,
            0,
            self.queue_size - 2,  # with header and status, a request fills the descriptor table
            image.block_size,
            (image.physical_block_size // image.block_size).bit_length() - 1,
            0,
            image.physical_block_size // image.block_size,
            0,
            1,
            len(self.queue_max_sizes),
            *segments,
            alignment,
            *segments,
            not image.read_only,
        )

    def _set_writes(self) -> None:
        for transfers in self._transfers:
            transfers.writable = not self.image.read_only
            transfers.write_flags = self.write_flags

    def _serve(self, _: int = 0) -> None:
        """Complete finished requests and start new ones. Valid reads and writes never come to Python."""
        for transfers in self._transfers:
            for chain in transfers.serve():
                self._start(chain)
            error = transfers.take_error()
            if error is not None:
                self._tell(f"{'write' if error.is_write else 'read'} at byte {error.offset}", error.error)
        others = self.engine.pending
        if others:
            self.engine.dispatch()
        if others or len(self._transfers) > 1:
            for transfers in self._transfers:
                transfers.publish()

    def _start(self, chain: DescriptorChain) -> None:
        """Prepare the request in ``chain``. A request that needs no I/O, or is refused, is answered immediately."""
        if not chain.writable_length:
            chain.complete()  # there is no room for a status
            return
        try:
            type_, sector = read_header(chain)
            self._start_request(chain, type_, sector)
        except RequestError as error:
            log.debug("%s: refused: %s", self.name, error)
            set_status(chain, error.status)

    def _start_request(self, chain: DescriptorChain, type_: int, sector: int) -> None:
        engine, image = self.engine, self.image
        if type_ in (VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT):
            reason = "on a read-only disk" if image.read_only else "past the end, or not of whole sectors"
            raise RequestError(VIRTIO_BLK_S_IOERR, f"a transfer {reason}")
        if type_ == VIRTIO_BLK_T_FLUSH:
            self._flush(chain)
        elif type_ == VIRTIO_BLK_T_GET_ID:
            if chain.writable_length <= VIRTIO_BLK_ID_BYTES:
                raise RequestError(VIRTIO_BLK_S_IOERR, f"{chain.writable_length - 1} bytes for the id")
            chain.write(0, self.serial.ljust(VIRTIO_BLK_ID_BYTES, b"\0"))
            set_status(chain, VIRTIO_BLK_S_OK)
        elif type_ in (VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES):
            self._check_writable()
            segments = read_segments(chain, type_, image.size)
            if type_ == VIRTIO_BLK_T_DISCARD:
                Discard(engine, image.file, segments, lambda result: self._done(chain, "discard", result)).start()
            else:
                WriteZeroes(
                    engine, image.file, segments, lambda result: self._zeroed(chain, result), self._refused_modes
                ).start()
        else:
            raise RequestError(VIRTIO_BLK_S_UNSUPP, f"type {type_}")

    def _check_writable(self) -> None:
        if self.image.read_only:
            raise RequestError(VIRTIO_BLK_S_IOERR, "a write to a read-only disk")

    def _flush(self, chain: DescriptorChain) -> None:
        self.engine.fdatasync(self.image.file, lambda result: self._done(chain, "flush", result))

    def _zeroed(self, chain: DescriptorChain, result: int) -> None:
        if result == 0 and not self.writeback:
            self._flush(chain)
        else:
            self._done(chain, "write of zeroes", result)

    def _done(self, chain: DescriptorChain, what: str, result: int) -> None:
        if result < 0:
            self._fail(chain, what, -result)
        else:
            set_status(chain, VIRTIO_BLK_S_OK)

    def _fail(self, chain: DescriptorChain, what: str, error: int) -> None:
        """Fail one request with the host's error."""
        set_status(chain, VIRTIO_BLK_S_IOERR)
        self._tell(what, error)

    def _tell(self, what: str, error: int) -> None:
        """Log an error of the host, each one once per activation."""
        if error != errno.ECANCELED and error not in self._told:
            self._told.add(error)
            # A short read has met the end of a file that was truncated meanwhile.
            reason = "the file is shorter than it was" if error == errno.ENODATA else os.strerror(error)
            log.error("%s: %s: %s failed: %s", self.name, self.image.path, what, reason)

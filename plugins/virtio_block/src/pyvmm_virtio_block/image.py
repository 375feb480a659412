"""The disk's file on the host: a raw image or a block device, opened, locked and measured."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct

from pyvmm.errors import HostError, UsageError
from pyvmm.host.aio import IoFile, direct_alignment
from pyvmm.logs import logger

from pyvmm_virtio_block.constants import SECTOR_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

log = logger(__name__)

# <linux/fs.h>, for x86-64.
_BLKROGET: Final = 0x125E
_BLKSSZGET: Final = 0x1268
_BLKPBSZGET: Final = 0x127B
_BLKGETSIZE64: Final = 0x80081272

_FLOCK: Final = struct.Struct("hhqqi4x")
"""struct flock: l_type, l_whence, l_start, l_len, l_pid."""

_MAX_BLOCK_SIZE: Final = 4096
"""The largest physical block size that a guest sees."""


class Image:
    """An open disk image. All of its bytes are the disk's content: a format is never guessed."""

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False, direct: bool = False) -> None:
        """Open and lock ``path``. Raises :class:`UsageError` if it cannot be a disk of this machine.

        A disk that is written is exclusive; several machines may share a read-only disk.

        With ``direct``, transfers bypass the host's page cache. Transfers without the alignment that O_DIRECT needs on
        this file system still use the page cache, by a second descriptor; the kernel keeps both consistent. The guest
        sees the alignment as the disk's physical block size.
        """
        self.path = os.fspath(path)
        self.read_only = read_only
        self.direct = direct
        self.fd = self._cached_fd = -1
        self.is_block_device = self._check_type()
        try:
            self.fd = self._open(os.O_DIRECT if direct else 0)
            self._lock()
            status = os.fstat(self.fd)
            self.identity = f"{status.st_dev}:{status.st_rdev}:{status.st_ino}"
            """The file's identity, which differs from that of a later file with the same name."""
            self.size = self._measure()
            """Bytes; a multiple of 512."""
            self.block_size = self._block_size()
            """The size of a logical block, in bytes: the unit of the disk's partition table."""
            self.physical_block_size = self._physical_block_size()
            """Bytes; a power of two from ``block_size`` up to 4096. Aligned transfers are fast."""
            self.file = self._direct_file() if direct else IoFile(self.fd)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close and unlock; closing twice does nothing."""
        for fd in (self._cached_fd, self.fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._cached_fd = -1

    def _check_type(self) -> bool:
        """Whether it is a block device. Raises if it is no regular file either."""
        try:
            mode = os.stat(self.path).st_mode
        except OSError as error:
            raise self._usage_error(error) from error
        if stat.S_ISDIR(mode):
            raise UsageError(f"block: {self.path} is a directory; give a raw disk image or a block device")
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise UsageError(f"block: {self.path} is neither a file nor a block device; give a raw disk image")
        return stat.S_ISBLK(mode)

    def _open(self, flags: int) -> int:
        flags |= os.O_CLOEXEC | (os.O_RDONLY if self.read_only else os.O_RDWR)
        if self.is_block_device and not self.read_only and self.fd < 0:
            flags |= os.O_EXCL  # refused while the host has it mounted
        # The second descriptor is of the same file, whatever has the name by then.
        path = self.path if self.fd < 0 else f"/proc/self/fd/{self.fd}"
        try:
            return os.open(path, flags)
        except OSError as error:
            raise self._usage_error(error) from error

    def _usage_error(self, error: OSError) -> UsageError:
        path = self.path
        match error.errno:
            case errno.ENOENT:
                return UsageError(f"block: {path} does not exist; make it with: truncate -s 1G {_quoted(path)}")
            case errno.EACCES | errno.EPERM | errno.EROFS if not self.read_only and os.access(path, os.R_OK):
                return UsageError(f"block: {path} cannot be written ({error.strerror}); give ro to use it read-only")
            case errno.EACCES | errno.EPERM:
                return UsageError(f"block: {path} may not be opened by this user; change its owner or mode")
            case errno.EBUSY:
                return UsageError(f"block: {path} is in use on this host; unmount it there, or give ro")
            case errno.EINVAL if self.direct:
                return UsageError(f"block: {path} is on a file system without O_DIRECT; leave out direct")
            case _:
                return UsageError(f"block: {path} cannot be opened: {error.strerror}; give a raw disk image")

    def _lock(self) -> None:
        """Lock the whole file by an open file description lock (fcntl(2), F_OFD_SETLK). Closing the descriptor unlocks
        it."""
        kind = fcntl.F_RDLCK if self.read_only else fcntl.F_WRLCK
        try:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                way_out = "stop it" if self.read_only else "stop it, or give both machines ro"
                raise UsageError(f"block: {self.path} is used by another virtual machine; {way_out}") from error
            log.warning(
                "block: %s cannot be locked (%s): make sure that no other machine uses it", self.path, error.strerror
            )

    def _measure(self) -> int:
        if self.is_block_device:
            size = int(struct.unpack("Q", fcntl.ioctl(self.fd, _BLKGETSIZE64, bytes(8)))[0])
            if not self.read_only and struct.unpack("i", fcntl.ioctl(self.fd, _BLKROGET, bytes(4)))[0]:
                raise UsageError(f"block: {self.path} is a read-only device; give ro")
        else:
            size = os.fstat(self.fd).st_size
        if size == 0:
            raise UsageError(f"block: {self.path} is empty; make it a disk with: truncate -s 1G {_quoted(self.path)}")
        if size % SECTOR_SIZE:
            raise UsageError(
                f"block: {self.path} has {size} bytes, not a multiple of {SECTOR_SIZE}; "
                f"fill it up with: truncate -s %{SECTOR_SIZE} {_quoted(self.path)}"
            )
        return size

    def _block_size(self) -> int:
        if not self.is_block_device:
            return SECTOR_SIZE
        return int(struct.unpack("i", fcntl.ioctl(self.fd, _BLKSSZGET, bytes(4)))[0])

    def _physical_block_size(self) -> int:
        if self.is_block_device:
            size = int(struct.unpack("I", fcntl.ioctl(self.fd, _BLKPBSZGET, bytes(4)))[0])
        else:
            size = os.fstat(self.fd).st_blksize
        return max(self.block_size, _power_of_two(min(size, _MAX_BLOCK_SIZE)))

    def _direct_file(self) -> IoFile:
        alignment = direct_alignment(self.fd)
        if alignment is None or (self.is_block_device and 0 in alignment):
            alignment = (self.block_size, self.block_size) if self.is_block_device else self._probe_alignment()
        memory, offset = alignment
        if not memory or not offset:
            raise UsageError(f"block: {self.path} is on a file system without O_DIRECT; leave out direct")
        self.physical_block_size = max(self.physical_block_size, min(offset, _MAX_BLOCK_SIZE))
        self._cached_fd = self._open(0)
        return IoFile(
            self.fd,
            cached=False,
            unaligned_fd=self._cached_fd,
            memory_alignment=memory,
            offset_alignment=offset,
        )

    def _probe_alignment(self) -> tuple[int, int]:
        """The smallest alignment with which a direct read works, for kernels that do not tell it."""
        with mmap.mmap(-1, 2 * _MAX_BLOCK_SIZE) as area, memoryview(area) as view:
            alignment = SECTOR_SIZE
            while alignment <= _MAX_BLOCK_SIZE:
                with view[alignment : 2 * alignment] as buffer:
                    try:
                        os.preadv(self.fd, [buffer], 0)
                        return alignment, alignment
                    except OSError as error:
                        if error.errno != errno.EINVAL:
                            raise HostError(f"block: {self.path} cannot be read: {error.strerror}") from error
                alignment *= 2
        return 0, 0


def _quoted(path: str) -> str:
    """A path, quoted for a shell."""
    import shlex

    return shlex.quote(path)


def _power_of_two(number: int) -> int:
    """The largest power of two that is not greater than ``number``, at least 1."""
    return 1 << max(number, 1).bit_length() - 1

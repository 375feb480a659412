"""Files that are loaded into guest memory. Each is opened once and read without a copy; every error names it."""

from __future__ import annotations

import os
import stat
import struct

from pyvmm.errors import UsageError
from pyvmm.startup.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Final

    from pyvmm.memory import GuestAddress, GuestMemory


@record
class LoadedKernel:
    """A kernel, or any program that runs without one, in guest memory."""

    entry: GuestAddress
    """The address at which the first vCPU starts, in 64-bit mode."""

    start: GuestAddress
    """The first address of the memory that the kernel occupies."""

    end: GuestAddress
    """The first address after the memory that the kernel needs before it reads the memory map."""

    format: str
    """``bzImage`` or ``ELF``."""

    setup_header: bytes = b""
    """The file's setup header from offset 0x1f1 on (Documentation/arch/x86/boot.rst); none for ELF."""

    cmdline_limit: int = 2047
    """The longest command line that it takes, in characters without the NUL."""

    initrd_addr_max: GuestAddress = 0x7FFF_FFFF
    """The last address that an initrd may cover."""


_LARGE: Final = 1 << 20
"""The shortest read, in bytes, for which the memory is first made of huge pages."""


class ImageFile:
    """A regular file open for reading.

    ``what`` is the word for it in messages: ``kernel`` or ``initrd``.
    """

    def __init__(self, path: str | os.PathLike[str], what: str) -> None:
        """Open it. Raises :class:`UsageError` if it is missing, unreadable, empty or not a regular file."""
        name = os.fspath(path)
        self.name = f"{what} {name if name.isprintable() and name else repr(name)}"
        self.fd = -1
        try:
            # O_NONBLOCK, so that it does not hang at a FIFO without a writer.
            self.fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
            status = os.fstat(self.fd)
        except (OSError, ValueError) as error:
            raise self.error(f"cannot be opened: {_reason(error)}") from error
        try:
            if stat.S_ISDIR(status.st_mode):
                raise self.error("is a directory; a file is wanted")
            if not stat.S_ISREG(status.st_mode):
                raise self.error("is not a regular file; copy it to one")
            if status.st_size == 0:
                raise self.error("is empty")
        except BaseException:
            self.close()
            raise
        self.size = status.st_size

    def error(self, text: str) -> UsageError:
        """An error about this file."""
        return UsageError(f"{self.name}: {text}")

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset``, fewer at the end of the file."""
        if offset >= self.size:
            return b""
        try:
            return os.pread(self.fd, min(length, self.size - offset), offset)
        except OSError as error:
            raise self.error(f"cannot be read: {_reason(error)}") from error

    def read_into(self, mem: GuestMemory, address: GuestAddress, offset: int, length: int) -> None:
        """Read ``length`` bytes at ``offset`` of the file into guest memory, without a copy."""
        if length >= _LARGE:
            mem.join(address, length)
        rest = mem.slice(address, length)
        while rest:
            try:
                done = os.preadv(self.fd, [rest], offset)
            except OSError as error:
                raise self.error(f"cannot be read: {_reason(error)}") from error
            if done == 0:
                raise self.error("became shorter while it was read")
            rest = rest[done:]
            offset += done

    def close(self) -> None:
        """Close it; closing twice does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> ImageFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _reason(error: OSError | ValueError) -> str:
    """The operating system's message, without the path, since the error already names it."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


_MAGICS = (
    (0, b"\x1f\x8b", "gzip-compressed data"),
    (0, b"\xfd7zXZ\0", "xz-compressed data"),
    (0, b"BZh", "bzip2-compressed data"),
    (0, b"\x5d\0\0", "lzma-compressed data"),
    (0, b"\x02\x21\x4c\x18", "LZ4-compressed data"),
    (0, b"\x04\x22\x4d\x18", "LZ4-compressed data"),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
    (0, b"\x89LZO", "LZO-compressed data"),
    (0x38, b"ARM\x64", "an arm64 Image"),
    (0x38, b"RSC\x05", "a RISC-V Image"),
    (4, b"zimg", "an EFI zboot image"),
    (0x24, b"\x18\x28\x6f\x01", "a 32-bit ARM zImage"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image"),
    (0, b"\xd0\x0d\xfe\xed", "a device tree or FIT image"),
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (0, b"!<arch>\n", "an archive, such as a Debian package"),
    (0, b"\xed\xab\xee\xdb", "an RPM package"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0x101, b"ustar", "a tar archive"),
    (0, b"070701", "a cpio archive, such as an initrd"),
    (0, b"070702", "a cpio archive, such as an initrd"),
    (0, b"#!", "a script"),
)

_ELF_MACHINES = {3: "i386", 8: "MIPS", 20: "PowerPC", 21: "PowerPC 64", 22: "s390", 40: "ARM", 62: "x86-64"}
_ELF_MACHINES |= {183: "arm64", 243: "RISC-V", 258: "LoongArch"}


def describe(head: bytes) -> str:
    """Says what kind of file begins with ``head``, of which a KiB suffices: for a user who gave it as a kernel."""
    if head[:4] == b"\x7fELF":
        return _describe_elf(head)
    for offset, magic, text in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return text
    if head[:2] == b"MZ":
        return "a PE program, not a Linux kernel"
    if not head.strip(b"\0"):
        return "all zeros"
    if all(byte in b"\t\n\r\f" or 0x20 <= byte < 0x7F for byte in head):
        return "text"
    return "of no known format"


def _describe_elf(head: bytes) -> str:
    if len(head) < 20 or head[4] not in (1, 2) or head[5] not in (1, 2):
        return "a damaged ELF file"
    (machine,) = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)
    bits = 32 if head[4] == 1 else 64
    order = "little" if head[5] == 1 else "big"
    return f"a {bits}-bit {order}-endian ELF file for {_ELF_MACHINES.get(machine, f'machine {machine}')}"

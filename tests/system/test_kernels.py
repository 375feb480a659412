"""The ELF kernel in a bzImage, whatever it is compressed with."""

from __future__ import annotations

import gzip
import lzma
import shutil
import struct
import subprocess
from collections.abc import Callable

import pytest

from tests.system.kernels import PreparationError, elf_of


def elf() -> bytes:
    """A 64-bit ELF of 200 bytes: header, one segment, no sections."""
    header = bytearray(b"\x7fELF\x02".ljust(64, b"\0"))
    struct.pack_into("<QQ", header, 0x20, 64, 0)
    struct.pack_into("<HHHH", header, 0x36, 56, 1, 64, 0)
    segment = bytearray(56)
    struct.pack_into("<Q", segment, 0x08, 120)
    struct.pack_into("<Q", segment, 0x20, 80)
    return bytes(header + segment) + bytes(range(80))


def bzimage(payload: bytes) -> bytes:
    setup = bytearray(2 * 512)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", setup, 0x248, 16, len(payload))
    return bytes(setup) + bytes(16) + payload + b"what follows"


def compressed_by(*command: str) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not installed")
        result = subprocess.run([*command, "-c"], input=data, capture_output=True, check=True)
        # As the kernel's build does: these formats do not tell the size.
        return result.stdout + struct.pack("<I", len(data))

    return compress


@pytest.mark.parametrize(
    "compress",
    [
        pytest.param(gzip.compress, id="gzip"),
        pytest.param(lambda data: lzma.compress(data, check=lzma.CHECK_CRC32), id="xz"),
        pytest.param(compressed_by("lz4", "-l"), id="lz4"),
        pytest.param(compressed_by("zstd"), id="zstd"),
    ],
)
def test_the_elf_comes_out_without_the_relocations_behind_it(compress: Callable[[bytes], bytes]) -> None:
    assert elf_of(bzimage(compress(elf() + b"relocations"))) == elf()


def test_what_is_no_bzimage_is_refused() -> None:
    with pytest.raises(PreparationError, match="not a bzImage"):
        elf_of(bytes(1024))

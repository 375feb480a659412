"""What a guest prints through the whole of pyvmm, by a bare-metal guest: real accesses of a real vCPU."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest
from pyvmm.testing.waiting import PATIENCE

from tests.test_bad_input import PYVMM, program

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/kvm"), reason="no /dev/kvm")

TEXT = 0x200000

# For each 16 bytes of a MiB: wait for THRE, then write them to the transmit register, as a driver with a FIFO does.
PRINT_A_MEBIBYTE = bytes.fromhex(
    "be00002000"  # mov esi, TEXT
    "bb00000100"  # mov ebx, 65536
    "66bafd03"  # wait: mov dx, LSR
    "ec"  # in al, dx
    "a820"  # test al, THRE
    "74f7"  # jz wait
    "66baf803"  # mov dx, THR
    "b910000000"  # mov ecx, 16
    "f36e"  # rep outsb
    "ffcb"  # dec ebx
    "75e6"  # jnz wait
    "66ba0006b034eeebfe"  # power off
)


def printing_program(path: Path, text: bytes) -> Path:
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 1 << 20, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    code = struct.pack("<IIQQQQQQ", 1, 7, 0x1000, 1 << 20, 1 << 20, len(PRINT_A_MEBIBYTE), len(PRINT_A_MEBIBYTE), 4096)
    data = struct.pack("<IIQQQQQQ", 1, 6, 0x2000, TEXT, TEXT, len(text), len(text), 4096)
    path.write_bytes((header + code + data).ljust(0x1000, b"\0") + PRINT_A_MEBIBYTE.ljust(0x1000, b"\0") + text)
    return path


@pytest.mark.parametrize("sink", ["pipe", "file"])
def test_a_mebibyte_of_output_loses_no_byte(tmp_path: Path, sink: str) -> None:
    text = b"".join(b"%07d\n" % number for number in range(1 << 17))
    kernel = printing_program(tmp_path / "kernel", text)
    option = [] if sink == "pipe" else ["--device", f"serial:file={tmp_path / 'out'}"]

    command = [str(PYVMM), "--kernel", str(kernel), "--memory", "16M", *option]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=5 * PATIENCE, check=False)

    assert result.returncode == 0, result.stderr
    assert (result.stdout if sink == "pipe" else (tmp_path / "out").read_bytes()) == text


def test_a_reader_that_stops_reading_does_not_keep_the_machine_from_ending(tmp_path: Path) -> None:
    kernel = program(tmp_path / "kernel")
    read, write = os.pipe()
    with subprocess.Popen([str(PYVMM), "--kernel", str(kernel)], stdin=subprocess.DEVNULL, stdout=write) as process:
        try:
            assert process.wait(timeout=5 * PATIENCE) == 0
        finally:
            process.kill()
    os.close(read)
    os.close(write)

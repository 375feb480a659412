"""What a boot makes of a machine's configuration."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pyvmm.errors import UsageError
from pyvmm.machine.boot import Boot
from pyvmm.machine.config import MachineConfig
from pyvmm.memory import GuestMemory
from pyvmm.x86_64.layout import MIB

sys.path.append(str(Path(__file__).parents[1] / "x86_64/boot"))

from test_kernel import bzimage_bytes


@pytest.mark.parametrize("limit", [255, 2047, 4095])
def test_the_command_line_has_the_room_that_the_kernel_says(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage_bytes(cmdline_size=limit))
    with GuestMemory.create([(0, 32 * MIB)]) as memory:
        boot = Boot(memory, MachineConfig(path))
        room = limit - len(str(boot.cmdline)) - 1
        with pytest.raises(UsageError, match=f"the kernel takes {limit};"):
            boot.cmdline.insert("x" * (room + 1))
        boot.cmdline.insert("x" * room)
        assert len(str(boot.cmdline)) == limit

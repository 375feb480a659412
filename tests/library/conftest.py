"""A guest for programs that run machines: it answers at its first serial port. See console.c."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyvmm import MachineConfig
from pyvmm.testing.bare_metal import compile_program

Configure = Callable[..., MachineConfig]


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's program, which stands in for a kernel. Skips, saying so, where there is no /dev/kvm."""
    if not os.path.exists("/dev/kvm"):
        pytest.skip("no /dev/kvm on this machine")
    return compile_program(tmp_path_factory.mktemp("guest"), Path(__file__).with_name("console.c"))


@pytest.fixture
def configure(guest: Path) -> Configure:
    """Makes a configuration of the guest with a console, and other devices that are named."""

    def make(*devices: str, **fields: Any) -> MachineConfig:
        return MachineConfig(guest, memory=32 << 20, devices=["serial:stream", *devices], **fields)

    return make

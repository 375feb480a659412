"""Fixtures: sandboxes whose guest's program is a process of this host, with Unix sockets in the device's place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyvmm_run import Sandbox, initramfs

sys.path.append(str(Path(__file__).parent))


class NoGuest:
    """Nothing to set up: it is the host."""

    has_to_end_itself = False

    def setup(self) -> list[str]:
        """No step."""
        return []


class HostSandbox(Sandbox):
    """Its commands run on this host, through the whole protocol; only the machine is missing."""

    program = str(initramfs.AGENT)

    def __init__(self) -> None:
        super().__init__(root="/")
        self.guest = NoGuest()  # type: ignore[assignment]

    def _start_machine(self, directory: str) -> subprocess.Popen[bytes]:
        with open(f"{directory}/log", "wb") as log:
            return subprocess.Popen(
                [self.program, directory], stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox that has started; at its end no descriptor is left."""
    before = len(os.listdir("/proc/self/fd"))
    with HostSandbox() as sandbox:
        yield sandbox
    assert len(os.listdir("/proc/self/fd")) <= before

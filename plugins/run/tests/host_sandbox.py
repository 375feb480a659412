"""A sandbox whose guest's program is a process of this host, with Unix sockets in the device's place."""

from __future__ import annotations

import subprocess

from pyvmm_run import Sandbox, initramfs
from pyvmm_run.guest import Guest


class NoGuest(Guest):
    """Nothing to set up: it is the host."""

    def setup(self) -> list[str]:
        """No step."""
        return []


class HostSandbox(Sandbox):
    """Its commands run on this host, through the whole protocol; only the machine is missing."""

    program = str(initramfs.AGENT)

    def __init__(self) -> None:
        super().__init__(root="/")
        self.guest = NoGuest()

    def _start_machine(self, directory: str) -> subprocess.Popen[bytes]:
        with open(f"{directory}/log", "wb") as log:
            return subprocess.Popen(
                [self.program, directory], stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )

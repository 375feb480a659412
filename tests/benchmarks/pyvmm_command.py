"""The command that starts pyvmm."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from tests.benchmarks import installed
from tests.benchmarks.harness import OURS
from tests.benchmarks.machines import Machine
from tests.benchmarks.process import clean_environment

COMMAND: Final = Path(os.environ.get("PYVMM_COMMAND", installed.COMMAND))
"""Another one can be named, to compare two versions of pyvmm."""


@cache
def has_device_option(kind: str, option: str) -> bool:
    """Whether this pyvmm knows ``option`` of devices of this kind."""
    result = subprocess.run(
        [COMMAND, "--device", f"{kind},help"], capture_output=True, text=True, env=clean_environment(), check=False
    )
    return f"\n{option}" in result.stdout


@dataclass(frozen=True)
class PyVmm:
    """pyvmm, with its defaults unless told otherwise."""

    name: str = OURS
    device_options: str = ""
    """Put behind each device's own, such as ``,process=off``."""
    devices: tuple[str, ...] = ()
    """Further devices, as on the command line."""

    def command(self, machine: Machine) -> list[str]:
        command = [str(COMMAND), "--kernel", str(machine.kernel), "--memory", f"{machine.memory}M"]
        command += ["--cpus", str(machine.cpus), "--cmdline", machine.cmdline]
        if machine.initrd:
            command += ["--initrd", str(machine.initrd)]
        for disk in machine.disks:
            flags = (",ro" if disk.read_only else "") + (",direct" if disk.direct else "")
            command += ["--device", f"block:{disk.path}{flags}{self.device_options}"]
        for card in machine.cards:
            flags = ""
            if has_device_option("net", "vhost"):
                flags = f",vhost={'on' if card.vhost else 'off'}"
            command += ["--device", f"net:{card.tap},mac={card.mac}{flags}{self.device_options}"]
        for device in self.devices:
            command += ["--device", f"{device}{self.device_options}"]
        return command

    def ended_well(self, status: int) -> bool:
        return status == 0

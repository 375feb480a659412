"""The program of a sandbox's process: a machine that runs until standard input ends.

python -m pyvmm_run.machine_process CONFIGURATION, which is the arguments of MachineConfig as JSON. Messages are on
stderr; the exit status is that of ``pyvmm``.
"""

from __future__ import annotations

import json
import os
import sys

from pyvmm.errors import PyvmmError
from pyvmm.exit_reason import End
from pyvmm.machine import Machine, MachineConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main(configuration: dict[str, Any]) -> int:
    """Run the machine; the exit status."""
    try:
        with Machine(MachineConfig(**configuration)) as machine:
            end_with(0, machine)
            reason = machine.run()
    except PyvmmError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    if reason.end is not End.QUIT:
        print(reason, file=sys.stderr)
    return reason.status


def end_with(fd: int, machine: Machine) -> None:
    """Have ``machine`` stop at the end of ``fd``, on which nothing is ever written."""

    def stop(_: int) -> None:
        machine.loop.remove(fd)
        machine.stop()

    machine.loop.add(fd, stop)


if __name__ == "__main__":
    status = main(json.loads(sys.argv[1]))
    sys.stderr.flush()
    os._exit(status)

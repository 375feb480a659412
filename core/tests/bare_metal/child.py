"""A process with a machine, for signals: ``child.py PROGRAM CPUS handlers|plain``; says when all vCPUs are at work."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path

from pyvmm.cli.run import stopped_by_signals
from pyvmm.testing.bare_metal import BareMachine


def main() -> int:
    """Run; the exit status is the machine's."""
    kernel, cpus, handlers = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "handlers"
    with BareMachine(kernel, cpus=cpus, all_cpus=True) as machine:

        def say() -> None:
            machine.report.wait(cpus)
            os.write(sys.stdout.fileno(), b"ready\n")  # whose lock this thread does not hold when the process ends

        machine.loop.post(threading.Thread(target=say, daemon=True).start)
        with stopped_by_signals(machine) if handlers else contextlib.nullcontext():
            return machine.run().status


if __name__ == "__main__":
    sys.exit(main())

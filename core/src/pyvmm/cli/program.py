"""The program ``pyvmm``: its process, from the first import to the end.

Only the command's script and ``python -m pyvmm`` import this module: the import takes the process's signals.
"""

from __future__ import annotations

import os
import sys

from pyvmm.cli import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["script"]

signals.take()


def script() -> NoReturn:
    """Run the command, and end the process.

    When the machine is closed, nothing is left that somebody needs, and to take the interpreter apart takes as long
    as to make a machine.
    """
    from pyvmm.cli import main, run

    run.process_is_ours = True
    status = main.main()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:
        sys.exit(status)  # the interpreter knows what to say of that
    os._exit(status)

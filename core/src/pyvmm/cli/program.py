"""The program ``pyvmm``: the process from the first import to the end.

Only the command's script and ``python -m pyvmm`` import this module, since the import sets the process's signal
handlers.
"""

from __future__ import annotations

import os
import sys

from pyvmm.cli import signals
from pyvmm.host.shortage import shortage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["script"]

signals.take()
for fd in range(3):
    try:
        os.fstat(fd)
    except OSError:
        from pyvmm.host import standard_streams

        standard_streams.complete()
        break


def script() -> NoReturn:
    """Run the command, and end the process.

    It exits without the interpreter's shutdown. When the machine is closed, nothing is left to do, and that shutdown
    would take as long as making a machine.
    """
    try:
        from pyvmm.cli import main, run
    except (OSError, MemoryError, ImportError) as error:
        if not (lack := shortage(error)):
            raise
        sys.exit(f"pyvmm: {lack}")
    run.process_is_ours = True
    if sys.stdout is not None and sys.stdout.encoding != "utf-8":
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # for characters that the terminal lacks
    status = main.main()
    for stream in (sys.stderr, sys.stdout):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:
            if stream is sys.stdout:
                status = status or 1
    os._exit(status)

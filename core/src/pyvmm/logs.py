"""Log lines on stderr: ``pyvmm: NAME: message``."""

from __future__ import annotations

import logging
import sys
from typing import TextIO


class _Formatter(logging.Formatter):
    def __init__(self, newline: str) -> None:
        super().__init__("pyvmm: %(name)s: %(message)s")
        self._newline = newline

    def format(self, record: logging.LogRecord) -> str:
        name = record.name
        record.name = name.removeprefix("pyvmm.")
        try:
            return super().format(record).replace("\n", self._newline)
        finally:
            record.name = name


def configure(verbosity: int, stream: TextIO | None = None) -> None:
    """Send log records to ``stream`` (stderr): warnings, with 1 also what is worth knowing, with 2 everything."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    # A guest's console may have put the terminal into raw mode, where a newline alone does not return the carriage.
    handler.terminator = "\r\n" if stream.isatty() else "\n"
    handler.setFormatter(_Formatter(handler.terminator))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel({0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG))

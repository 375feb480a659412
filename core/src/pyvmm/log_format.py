"""What a log line looks like: ``pyvmm: NAME: message``."""

from __future__ import annotations

import logging

TYPE_CHECKING = False
if TYPE_CHECKING:
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


def send(verbosity: int, stream: TextIO) -> None:
    """Send log records to ``stream``: warnings, with 1 also what is worth knowing, with 2 everything."""
    handler = logging.StreamHandler(stream)
    # A guest's console may have put the terminal into raw mode, where a newline alone does not return the carriage.
    handler.terminator = "\r\n" if stream.isatty() else "\n"
    handler.setFormatter(_Formatter(handler.terminator))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel({0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG))

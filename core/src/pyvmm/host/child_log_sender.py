"""The writing end of a :class:`~pyvmm.host.child_log.LogRelay`: it sends a child's log records as lines through a
pipe."""

from __future__ import annotations

import logging

from pyvmm.host.child_log import FIELD, MAX_LINE, RECORD, write_all

__all__ = ["PipeHandler", "send_all"]


class PipeHandler(logging.Handler):
    """Sends log records through the descriptor ``fd`` to the :class:`LogRelay` of the parent process."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record).encode("unicode_escape")[: MAX_LINE - 256]
            head = FIELD.join((RECORD + str(record.levelno).encode(), record.name.encode("ascii", "replace")))
            write_all(self._fd, head + FIELD + message + b"\n")
        except Exception:
            self.handleError(record)


def send_all(fd: int, level: int) -> None:
    """Send all loggers' records from ``level`` on to ``fd``, and remove other handlers. Handlers from before a fork may
    write to descriptors that are now other files."""
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
            logger.propagate = True
    logging.root.addHandler(PipeHandler(fd))
    logging.root.setLevel(level)

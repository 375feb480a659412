"""The writing end of a :class:`~pyvmm.host.child_log.LogRelay`: what a process of ours logs, as lines in a pipe."""

from __future__ import annotations

import logging

from pyvmm.host.child_log import FIELD, MAX_LINE, RECORD, write_all

__all__ = ["PipeHandler", "send_all"]


class PipeHandler(logging.Handler):
    """Sends log records through the descriptor ``fd``, in a process whose :class:`LogRelay` is another's."""

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
    """All loggers to ``fd``. Handlers that are here from before a fork may write to descriptors that are now another
    file's."""
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
            logger.propagate = True
    logging.root.addHandler(PipeHandler(fd))
    logging.root.setLevel(level)

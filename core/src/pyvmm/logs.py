"""Log lines on stderr: ``pyvmm: NAME: message``; and loggers that import logging when there is something to log.

logging takes a tenth of a start to import, and most starts have nothing to say.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Any, TextIO

__all__ = ["logger"]

_wanted: tuple[int, TextIO] | None = None
"""What :func:`configure` was told, until somebody has imported logging."""


class Logger:
    """``logging.getLogger(name)``, imported at the first message that somebody may want to see."""

    def __init__(self, name: str) -> None:
        self.name = name

    def debug(self, message: str, *arguments: object, **named: Any) -> None:
        """As that of logging.Logger. Nobody wants to see it where nobody has imported logging to say so."""
        if "logging" in sys.modules:
            self.logger.debug(message, *arguments, stacklevel=2, **named)

    def info(self, message: str, *arguments: object, **named: Any) -> None:
        """As :meth:`debug`."""
        if "logging" in sys.modules:
            self.logger.info(message, *arguments, stacklevel=2, **named)

    @property
    def logger(self) -> logging.Logger:
        """The logger itself."""
        import logging

        settle()
        return logging.getLogger(self.name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.logger, name)


def logger(name: str) -> logging.Logger:
    """The logger called ``name``, at no cost before it is used."""
    return Logger(name)  # type: ignore[return-value]  # it has all that a logger has


def configure(verbosity: int, stream: TextIO | None = None) -> None:
    """Send log records to ``stream`` (stderr): warnings, with 1 also what is worth knowing, with 2 everything.

    Where that is warnings only, it is put off until somebody has imported logging: see :func:`settle`.
    """
    global _wanted
    _wanted = verbosity, stream or sys.stderr
    if verbosity:
        import logging  # noqa: F401 - from here on it is of use
    settle()


def settle() -> None:
    """Do what was put off, where logging has been imported meanwhile: by a logger of this module or a plugin's own."""
    global _wanted
    if _wanted is not None and "logging" in sys.modules:
        from pyvmm.log_format import send

        wanted, _wanted = _wanted, None
        send(*wanted)

"""Log lines on stderr: ``pyvmm: NAME: message``; and loggers that import logging when there is something to log.

logging takes a tenth of a start to import, and most starts have nothing to say.
"""

from __future__ import annotations

import sys
from _thread import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from typing import Any, Final, TextIO

__all__ = ["logger"]

_WARNING: Final = 30
"""logging.WARNING, where a logger that nobody has configured begins."""

_settling = RLock()

_waiting: Callable[[], None] | None = None
"""What is to be done once somebody has imported logging."""


class Logger:
    """``logging.getLogger(name)``, imported at the first message that somebody may want to see."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[object, ...]:
        return logger, (self.name,)

    def debug(self, message: str, *arguments: object, **named: Any) -> None:
        """As that of logging.Logger. Nobody wants to see it where nobody has imported logging to say so."""
        if "logging" in sys.modules:
            self.logger.debug(message, *arguments, **_one_up(named))

    def info(self, message: str, *arguments: object, **named: Any) -> None:
        """As :meth:`debug`."""
        if "logging" in sys.modules:
            self.logger.info(message, *arguments, **_one_up(named))

    @property
    def logger(self) -> logging.Logger:
        """The logger itself."""
        import logging

        settle()
        return logging.getLogger(self.name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.logger, name)


def _one_up(named: dict[str, Any]) -> dict[str, Any]:
    """What a logger's method was told, for the caller of its caller."""
    return named | {"stacklevel": named.get("stacklevel", 1) + 1}


def logger(name: str) -> logging.Logger:
    """The logger called ``name``, at no cost before it is used."""
    return Logger(name)  # type: ignore[return-value]  # it has all that a logger has


def configure(verbosity: int, stream: TextIO | None = None) -> None:
    """Send log records to ``stream`` (stderr): warnings, with 1 also what is worth knowing, with 2 everything.

    Where that is warnings only, it is put off until somebody has imported logging.
    """

    def send() -> None:
        from pyvmm import log_format

        log_format.send(verbosity, stream or sys.stderr)

    if verbosity:
        import logging  # noqa: F401 - from here on it is of use
    when_imported(send)


def when_imported(function: Callable[[], None]) -> None:
    """Call ``function``, in place of one that still waits, when logging has been imported: see :func:`settle`."""
    global _waiting
    _waiting = function
    settle()


def settle() -> None:
    """Do what waits for logging, if it has been imported meanwhile: by a logger of this module, or a plugin.

    Called wherever a plugin's code has run on the way to a running machine. One that imports logging later than that
    and does not use this module's loggers writes bare lines.
    """
    global _waiting
    if _waiting is None or "logging" not in sys.modules:
        return
    with _settling:  # who comes meanwhile waits until there is a place for the message
        if _waiting is not None:
            _waiting()
            _waiting = None


def level() -> int:
    """From which level on what is logged is of use."""
    logging = sys.modules.get("logging")
    return logging.getLogger().getEffectiveLevel() if logging is not None else _WARNING

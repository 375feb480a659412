"""Loggers that import logging when there is something to log, and the log's lines: ``pyvmm: NAME: message``.

To import logging takes a tenth of a start, and most starts log nothing.
"""

from __future__ import annotations

import sys

from pyvmm.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any, Final, TextIO

__all__ = ["logger"]

_WARNING: Final = 30
"""logging.WARNING: the level of a logger that nobody has configured."""


class Logger:
    """``logging.getLogger(name)``, which is imported with the first message that somebody may want to see."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[object, ...]:
        return logger, (self.name,)

    def debug(self, message: str, *arguments: object, **named: Any) -> None:
        """As logging.Logger.debug(). Nobody wants to see the message if nobody has imported logging to say so."""
        if "logging" in sys.modules:
            self.logger.debug(message, *arguments, **_one_up(named))

    def info(self, message: str, *arguments: object, **named: Any) -> None:
        """As :meth:`debug`."""
        if "logging" in sys.modules:
            self.logger.info(message, *arguments, **_one_up(named))

    @property
    def logger(self) -> logging.Logger:
        """The logger of the module logging."""
        import logging

        return logging.getLogger(self.name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.logger, name)


def _one_up(named: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a logger's method, for a call that is one frame deeper."""
    return named | {"stacklevel": named.get("stacklevel", 1) + 1}


def logger(name: str) -> logging.Logger:
    """The logger called ``name``. It costs nothing before it is used."""
    return Logger(name)  # type: ignore[return-value]  # it has all that a logger has


def configure(verbosity: int, stream: TextIO | None = None) -> None:
    """Send the log to ``stream`` (stderr): warnings; with ``verbosity`` 1 also information, with 2 everything.

    For warnings alone, this waits until somebody imports logging.
    """
    when_imported(lambda: _send(verbosity, stream or sys.stderr))
    if verbosity:
        import logging  # noqa: F401 - now somebody wants to see the messages


def _send(verbosity: int, stream: TextIO | None) -> None:
    import logging

    root = logging.getLogger()
    root.setLevel({0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG))
    if stream is None:  # it was closed when Python started
        root.addHandler(logging.NullHandler())
        return
    # A guest's console may have put the terminal into raw mode, where a newline alone does not return the carriage.
    newline = "\r\n" if stream.isatty() else "\n"

    class Formatter(logging.Formatter):
        def formatMessage(self, record: logging.LogRecord) -> str:
            # What goes on in another line is indented, so that it cannot pass for a line of its own.
            record.message = printable(record.message, keep="\n").replace("\n", "\n    ")
            return super().formatMessage(record)

        def format(self, record: logging.LogRecord) -> str:
            name = record.name
            record.name = name.removeprefix("pyvmm.")
            try:
                return printable(super().format(record), keep="\n").replace("\n", newline)
            finally:
                record.name = name

    class Handler(logging.StreamHandler):  # type: ignore[type-arg]  # logging is imported late
        """Drops what cannot be written now: a full disk or a reader that does not read must not hold a device up."""

        def emit(self, record: logging.LogRecord) -> None:
            if has_room(self.stream):
                super().emit(record)

        def handleError(self, record: logging.LogRecord) -> None:
            pass

    handler = Handler(stream)
    handler.terminator = newline
    handler.setFormatter(Formatter("pyvmm: %(name)s: %(message)s"))
    root.addHandler(handler)


def has_room(stream: TextIO) -> bool:
    """Whether a line can be written to ``stream`` without waiting for its reader."""
    import select

    try:
        poll = select.poll()
        poll.register(stream, select.POLLOUT)
        return bool(poll.poll(0))
    except (OSError, ValueError):  # it is no file, or a closed one
        return True


def level() -> int:
    """The lowest level that somebody wants to see."""
    logging = sys.modules.get("logging")
    return logging.getLogger().getEffectiveLevel() if logging is not None else _WARNING


def when_imported(function: Callable[[], None]) -> None:
    """Call ``function`` as soon as logging is imported, by whom and on which thread it may be. It replaces a function
    that still waits for that."""
    if "logging" in sys.modules:
        function()
        return
    _import.function = function
    if _import not in sys.meta_path:
        sys.meta_path.insert(0, _import)


class _Import:
    """A finder and loader (importlib.abc) that imports logging as the others would, and then calls a function.

    A thread that imports logging meanwhile waits for the import's lock. So no message is early.
    """

    function: Callable[[], None] | None = None
    _loader: Any  # logging's own

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "logging" or self.function is None:
            return None
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None:
            self._loader, spec.loader = spec.loader, self  # type: ignore[assignment]  # it need not be a subclass
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = module.__spec__.loader = self._loader  # type: ignore[union-attr]
        self._loader.exec_module(module)
        function, self.function = self.function, None
        if function is not None:
            function()


_import = _Import()

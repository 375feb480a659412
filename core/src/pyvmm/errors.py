"""Errors that a user can do something about."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["HostError", "PluginError", "PyvmmError", "UsageError", "cause_of", "nearest", "printable"]


class PyvmmError(Exception):
    """An error that the user or the host's administrator can fix.

    The message is one line: it names the thing, and says what is wrong with it and what to do. ``exit_status`` is the
    command's exit status: 2 for a mistake of the user, 1 for something that the host lacks. Any other exception that
    reaches the command is a bug and keeps its traceback.
    """

    exit_status = 1


class UsageError(PyvmmError):
    """The user's mistake: an option, a file or a name that does not fit."""

    exit_status = 2


class PluginError(UsageError):
    """No plugin offers the kind of device or the command that the user named, or its plugin does not work."""


class HostError(PyvmmError):
    """The host lacks something that the machine needs: a device node, a permission, a capability, memory."""


def cause_of(error: BaseException) -> str:
    """One line that says what an exception is, for the message of a :class:`PyvmmError`."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def printable(text: str, keep: str = "") -> str:
    """``text`` with an escape such as ``\\x1b`` for each character that is not printable and not one of ``keep``.

    A file's name or a guest's words can then neither forge a line of pyvmm's own nor move a terminal's cursor.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in keep else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def nearest(word: str, words: Iterable[str]) -> str:
    """`` (did you mean 'X'?)`` with the one of ``words`` that is most like ``word``; empty if none is like it."""
    import difflib

    matches = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""

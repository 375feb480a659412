"""Errors that a user can do something about."""

__all__ = ["HostError", "PluginError", "PyvmmError", "UsageError", "cause_of"]


class PyvmmError(Exception):
    """Something that the user or the host's owner can fix.

    The message is one line: it names the thing, says what is wrong with it and what to do.
    ``exit_status`` is what the command ends with: 2 for what the user typed, 1 for what the host lacks.
    Any other exception that reaches the command is a bug and keeps its traceback.
    """

    exit_status = 1


class UsageError(PyvmmError):
    """The user's mistake: an option, a file or a name that cannot be what was meant."""

    exit_status = 2


class PluginError(UsageError):
    """A kind of device or a command was asked for that no plugin offers, or whose plugin does not work."""


class HostError(PyvmmError):
    """The host lacks something that the machine needs: a device node, a permission, a capability, memory."""


def cause_of(error: BaseException) -> str:
    """Any exception in one line, for the message of a :class:`PyvmmError`."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

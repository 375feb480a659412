"""Why a run ended, and the exit status that says so."""

from __future__ import annotations

from enum import Enum

from pyvmm.record import record

__all__ = ["End", "ExitReason"]


class End(Enum):
    """The ways in which a run ends; the value is the command's exit status."""

    POWEROFF = (0, "the guest powered off")
    REBOOT = (0, "the guest asked for a reboot")
    QUIT = (0, "the user ended the machine")
    SIGNAL = (128, "a signal ended the machine")
    HOST_FAILURE = (1, "the VMM failed")
    CRASH = (3, "the guest crashed")

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.text = text


@record
class ExitReason:
    """How a run ended, with what is known beyond that: a crash's registers, a failure's traceback."""

    end: End
    detail: str = ""
    signal: int = 0

    @property
    def status(self) -> int:
        """The exit status; 128 and the signal's number for a signal, as shells say it."""
        return self.end.status + self.signal

    def __str__(self) -> str:
        return f"{self.end.text}: {self.detail}" if self.detail else self.end.text

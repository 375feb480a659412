"""Why a run ended, and the exit status that says so."""

from __future__ import annotations

from pyvmm.startup.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

__all__ = ["End", "ExitReason"]


class End:
    """A way in which a run ends. The six ways are attributes of this class."""

    POWEROFF: ClassVar[End]
    REBOOT: ClassVar[End]
    QUIT: ClassVar[End]
    SIGNAL: ClassVar[End]
    HOST_FAILURE: ClassVar[End]
    CRASH: ClassVar[End]

    def __init__(self, name: str, status: int, text: str) -> None:
        self.name = name
        self.status = status
        """The command's exit status."""
        self.text = text

    @classmethod
    def called(cls, name: str) -> End:
        """The way with this name. Raises ValueError if there is none."""
        end = vars(cls).get(name)
        if not isinstance(end, cls):
            raise ValueError(f"{name!r} is no way in which a run ends")
        return end

    def __repr__(self) -> str:
        return f"End.{self.name}"

    def __reduce__(self) -> tuple[object, ...]:
        return End.called, (self.name,)  # a copy is the same


for _end in (
    End("POWEROFF", 0, "the guest powered off"),
    End("REBOOT", 0, "the guest asked for a reboot"),
    End("QUIT", 0, "the user ended the machine"),
    End("SIGNAL", 128, "a signal ended the machine"),
    End("HOST_FAILURE", 1, "the VMM failed"),
    End("CRASH", 3, "the guest crashed"),
):
    setattr(End, _end.name, _end)


@record
class ExitReason:
    """How a run ended, and details: a crash's registers, or a failure's traceback."""

    end: End
    detail: str = ""
    signal: int = 0

    @property
    def status(self) -> int:
        """The command's exit status. For a signal it is 128 plus the signal's number, as in shells."""
        return self.end.status + self.signal

    def __str__(self) -> str:
        return f"{self.end.text}: {self.detail}" if self.detail else self.end.text

"""The parts of a machine, the same for every VMM, and the interface of a VMM to the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Disk:
    """A raw image as a virtio disk."""

    path: Path
    read_only: bool = False
    direct: bool = False
    """Without the host's page cache."""


@dataclass(frozen=True)
class Card:
    """A virtio network card on a tap."""

    tap: str
    mac: str = "52:54:00:12:34:56"
    vhost: bool = False


@dataclass(frozen=True)
class Machine:
    """A machine with a serial port on stdout."""

    kernel: Path | None
    """None, where a ROM takes its place."""
    cmdline: str = ""
    initrd: Path | None = None
    memory: int = 256
    """MiB."""
    cpus: int = 1
    disks: tuple[Disk, ...] = ()
    cards: tuple[Card, ...] = ()


class Vmm(Protocol):
    """One VMM with its settings."""

    @property
    def name(self) -> str:
        """As in the table."""

    def command(self, machine: Machine) -> list[str]:
        """The command that runs ``machine`` to its end."""

    def ended_well(self, status: int) -> bool:
        """Whether ``status`` is the one with which a bare-metal guest ends it."""

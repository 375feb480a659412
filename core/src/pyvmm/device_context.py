"""The context that a machine gives to each device: its name, the event loop, the other devices' names."""

from __future__ import annotations

import os
from types import MappingProxyType

from pyvmm.errors import UsageError
from pyvmm.host.device_files import HostFiles
from pyvmm.startup.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any, Self

    from pyvmm.exit_reason import ExitReason
    from pyvmm.host.eventfd import EventFd
    from pyvmm.host.eventloop import LoopScope
    from pyvmm.kvm.fast_port import FastPort
    from pyvmm.memory import GuestMemory

__all__ = ["DeviceContext", "DeviceInfo", "HostFiles", "MachineView"]


@record
class DeviceInfo:
    """One device of a machine, as the other devices see it."""

    kind: str

    package: str
    """The device's distribution and version: ``pyvmm-lamp 1.2``; empty if it has no distribution."""


class MachineView:
    """A machine as its devices see it, also from a process of their own."""

    def __init__(
        self, devices: Mapping[str, DeviceInfo] = MappingProxyType({}), files: HostFiles | None = None, name: str = ""
    ) -> None:
        """By default a machine without devices and name, and a new place for files."""
        self.name = name
        """The machine's name; empty if it has none."""
        self.devices = devices
        """All devices that the machine was asked to have, by id, in their order on the command line."""
        self.files = files or HostFiles()
        """The devices' directories on the host; removed with the machine."""
        self.open_stream: Callable[[str, Callable[[], object]], tuple[int, int]] | None = None
        """As :meth:`DeviceContext.open_stream`, with the device's id first; None outside of the machine's process."""
        self.tell: Callable[[str, str], object] = lambda id, event: None
        """As :meth:`DeviceContext.tell`, with the device's id first."""

    @classmethod
    def from_text(cls, text: str) -> MachineView:
        """The view from which :meth:`to_text` made ``text``."""
        path, name, *lines = text.split("\n")
        devices = (line.split("\t") for line in lines)
        return cls({id_: DeviceInfo(kind, package) for id_, kind, package in devices}, HostFiles(path), name)

    def to_text(self) -> str:
        """The whole view as a text without NULs, for another program."""
        lines = ("\t".join((id_, info.kind, info.package)) for id_, info in self.devices.items())
        return "\n".join((os.fspath(self.files), self.name, *lines))

    def title(self, id: str) -> str:
        """A device's name in the log: its id, after the machine's name if there is one: ``web/lamp0``."""
        return f"{self.name}/{id}" if self.name else id

    def label(self, id: str) -> str:
        """A device's name for messages about its failure, with its package: ``lamp0 (pyvmm-lamp 1.2)``."""
        info = self.devices.get(id)
        return f"{self.title(id)} ({info.package})" if info and info.package else self.title(id)


@record
class DeviceContext:
    """A device's place in a machine. The machine passes it to ``attach``, the first call of a device's method.

    It is the same in the VMM's process, in a device's own process and in ``pyvmm serve``.
    """

    name: str
    """The device's id. It is unique in the machine."""

    loop: LoopScope
    """The event loop on which the device runs.

    A callback that a virtio device adds in ``attach`` lasts until ``close``. A callback that it adds later, from
    feature negotiation on, ends with a reset or a failure of the device. A callback that another callback adds lasts as
    long as that one. A callback that fails its device is not called again until the driver resets the device.
    """

    stop: Callable[[ExitReason], None]
    """Ends the machine. Any thread may call it; it returns immediately."""

    irq: EventFd | None = None
    """A BusDevice's interrupt line, as an irqfd: each signal is one edge. None if the device asked for no line."""

    fast_port: Callable[[int], FastPort | None] = lambda offset: None
    """Makes the port at this offset a fast port, for which not every byte calls the device. For a BusDevice at ports,
    before the machine runs. Returns None if there can be no fast port; the device must work without one."""

    memory: GuestMemory | None = None
    """Guest memory, for a BusDevice. It is a memfd if the device's kind sets ``needs_memfd``; otherwise it may have no
    descriptor. None for a virtio device, which gets it when it is activated."""

    machine: MachineView = MachineView()
    """The machine around the device."""

    def replace(self, **changes: Any) -> Self:
        """The same context with other values for the given fields, for parts that a device makes itself."""
        return replace(self, **changes)

    @property
    def devices(self) -> Mapping[str, DeviceInfo]:
        """All devices that the machine was asked to have, this one too, by id: kind and package of each.

        A device may be in another process, so other devices know only its name. Two devices that depend on each other
        use files in the :meth:`directory` of one of them.
        """
        return self.machine.devices

    @property
    def title(self) -> str:
        """The name with which the device's log lines begin: its id, after the machine's name if there is one, as in
        ``web/lamp0``."""
        return self.machine.title(self.name)

    @property
    def label(self) -> str:
        """The device and its package, for messages about its failure: ``lamp0 (pyvmm-lamp 1.2)``."""
        return self.machine.label(self.name)

    def open_stream(self, on_end: Callable[[], object]) -> tuple[int, int]:
        """Make the console of the device at which the program reads and writes (:class:`pyvmm.machine.Console`).

        Returns two ends of pipes that do not block: the device reads its input from the first one and writes its
        output to the second one. The device closes both.

        ``on_end`` is called on the loop's thread when the run is over. It writes what the device still has and closes
        the descriptors.

        Raises :class:`UsageError` where no program runs the machine.
        """
        if self.machine.open_stream is None:
            raise UsageError(
                f"{self.name}: stream is for a Python program that runs a machine; give pty, file= or unix="
            )
        return self.machine.open_stream(self.name, on_end)

    def tell(self, event: str) -> None:
        """Tell the program that runs the machine of an event (:class:`pyvmm.machine.MachineEvent`). From any thread. It
        does nothing in a device's own process."""
        self.machine.tell(self.name, event)

    def directory(self, device: str = "") -> Path:
        """A directory on the host for this device's files, or for the files of the device with the id ``device``.

        It is made at the first call, and only this user can read it. It is removed with its contents when the machine
        ends (but not if SIGKILL kills the VMM). The path is short enough for a Unix socket.

        Raises :class:`UsageError` if the machine has no such device and :class:`HostError` if the directory cannot be
        made.
        """
        if device and device != self.name and device not in self.devices:
            known = ", ".join(self.devices) or "it has no other"
            raise UsageError(f"{self.name}: the machine has no device {device!r}; its devices: {known}")
        return self.machine.files.directory(device or self.name)

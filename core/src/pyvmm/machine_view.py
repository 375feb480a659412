"""What a machine lets its devices know of itself."""

from __future__ import annotations

import os
from types import MappingProxyType

from pyvmm.host.device_files import HostFiles
from pyvmm.startup.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pyvmm.plugins import DeviceRequest

__all__ = ["DeviceInfo", "MachineView"]


@record
class DeviceInfo:
    """One device of a machine, as the others see it."""

    kind: str

    package: str
    """The distribution that it is of and its version: ``pyvmm-lamp 1.2``; empty where it is of none."""


class MachineView:
    """A machine as its devices see it, also from a process of their own."""

    def __init__(
        self, devices: Mapping[str, DeviceInfo] = MappingProxyType({}), files: HostFiles | None = None
    ) -> None:
        """By default a machine without devices, and a new place for files."""
        self.devices = devices
        """All devices that the machine was asked to have, by id, in their order on the command line."""
        self.files = files or HostFiles()
        """Where the devices' files on the host are; gone with the machine."""

    @classmethod
    def of(cls, requests: Iterable[DeviceRequest]) -> MachineView:
        """That of a machine with the devices of ``requests``."""
        return cls({request.id: DeviceInfo(request.kind.name, request.package) for request in requests})

    @classmethod
    def from_text(cls, text: str) -> MachineView:
        """What :meth:`to_text` made a text of."""
        path, *lines = text.split("\n")
        devices = (line.split("\t") for line in lines)
        return cls({id_: DeviceInfo(kind, package) for id_, kind, package in devices}, HostFiles(path))

    def to_text(self) -> str:
        """All of it in a text without NULs, for another program."""
        lines = ("\t".join((id_, info.kind, info.package)) for id_, info in self.devices.items())
        return "\n".join((os.fspath(self.files), *lines))

    def label(self, id: str) -> str:
        """A device for messages of its failure, with the package that is to blame: ``lamp0 (pyvmm-lamp 1.2)``."""
        info = self.devices.get(id)
        return f"{id} ({info.package})" if info and info.package else id

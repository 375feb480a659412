"""The entry points of installed distributions for pyvmm, read without importing any of their code.

A group's name contains the version of the plugin contract for which its entry points are built: ``pyvmm.devices`` is
version 1, ``pyvmm.devices.v2`` would be version 2. So the version is known before a plugin's code runs, and a
distribution can support several versions.

importlib_metadata can do all this, but its import takes as long as the rest of a start. So this module reads the usual
case itself, by the same rules: folders ``*.dist-info`` and ``*.egg-info`` on ``sys.path``. It asks importlib_metadata
only if there may be other distributions: in a zip file on the path, or from an importer with a finder of its own.
"""

from __future__ import annotations

import os
import sys

from pyvmm.host.shortage import shortage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Final

DEVICES: Final = "pyvmm.devices"
"""The group of entry points for kinds of device: ``kind = module``."""

COMMANDS: Final = "pyvmm.commands"
"""The group of entry points for commands: ``name = module:click_command`` is ``pyvmm name``."""

_CHUNK: Final = 1 << 14


class EntryPoint:
    """One line of a group in a distribution's metadata: ``name = value``."""

    def __init__(self, name: str, value: str, metadata: Callable[[], tuple[str, str]], api_version: int) -> None:
        """``value`` is ``module`` or ``module:attribute``; ``metadata`` reads the distribution's name and version."""
        self.name = name
        self.value = value
        self.api_version = api_version
        """The version of the plugin contract for which it is built."""
        self._read_metadata = metadata
        self._read: tuple[str, str] | None = None

    @property
    def _metadata(self) -> tuple[str, str]:
        if self._read is None:
            self._read = self._read_metadata()
        return self._read

    @property
    def distribution(self) -> str:
        """The name of the distribution, as on PyPI. A start does not need it, so it is read only on request."""
        return self._metadata[0]

    @property
    def version(self) -> str:
        """The version of the distribution."""
        return self._metadata[1]

    def load(self) -> Any:
        """Import the object that ``value`` names."""
        module, _, attributes = self.value.partition("[")[0].partition(":")
        __import__(module.strip())  # importlib.import_module() does the same, but also imports warnings
        loaded: Any = sys.modules[module.strip()]
        for attribute in filter(None, attributes.strip().split(".")):
            loaded = getattr(loaded, attribute)
        return loaded

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def entry_points(group: str) -> Iterable[EntryPoint]:
    """All entry points of ``group``, in any version of it, in the order of ``sys.path``."""
    if any(map(_finds_distributions, sys.meta_path)) or any(map(_is_no_folder_of_metadata, sys.path)):
        return _ask_importlib_metadata(group)
    return _scan(sys.path, group)


def normalized(name: str) -> str:
    """A distribution's name in normal form, for comparisons: ``PyVMM.Lamp`` is ``pyvmm-lamp``."""
    name = name.lower().replace("_", "-").replace(".", "-")
    while "--" in name:
        name = name.replace("--", "-")
    return name


def _api_version(header: str, group: str) -> int:
    """The version in the group name ``header``; 0 if it is another group."""
    if header == group:
        return 1
    version = header.removeprefix(f"{group}.v")
    return int(version) if version != header and version.isdecimal() else 0


def _finds_distributions(finder: object) -> bool:
    """Whether ``finder`` may know of distributions that are no folders on ``sys.path``."""
    if getattr(finder, "__module__", "").startswith(("_frozen_importlib", "importlib_metadata")):
        return False  # these two search the same folders as this module
    return hasattr(finder, "find_distributions")


def _is_no_folder_of_metadata(path: str) -> bool:
    """Whether ``path`` on ``sys.path`` may have metadata outside of folders beside its modules."""
    return path.endswith(".egg") or os.path.isfile(path)


def _ask_importlib_metadata(group: str) -> Iterator[EntryPoint]:
    import importlib_metadata

    for found in importlib_metadata.entry_points():
        if version := _api_version(found.group, group):
            yield EntryPoint(found.name, found.value, _metadata_of(found.dist), version)


def _metadata_of(distribution: Any) -> Callable[[], tuple[str, str]]:
    return lambda: (distribution.metadata["Name"] or "", distribution.version or "")


def _scan(paths: Iterable[str], group: str) -> Iterator[EntryPoint]:
    seen: set[str] = set()
    for path in dict.fromkeys(paths):
        try:
            names = os.listdir(path or ".")
        except OSError as error:
            _pass_on_shortage(error)
            continue  # sys.path may name a folder that does not exist
        for name in names:
            if not name.lower().endswith((".dist-info", ".egg-info")):
                continue
            distribution = normalized(os.path.splitext(name)[0].partition("-")[0])
            if distribution in seen:
                continue  # the first on the path hides the later ones, as for modules
            seen.add(distribution)
            yield from _read(os.path.join(path, name), group)


def _read(folder: str, group: str) -> Iterator[EntryPoint]:
    """The entry points in one distribution's folder of metadata."""
    try:
        data = _content(f"{folder}/entry_points.txt")
        if group.encode() not in data:
            return
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        _pass_on_shortage(error)
        return
    version = 0
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            version = _api_version(line.strip("[]"), group)
        elif version and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield EntryPoint(name.strip(), value.strip(), lambda: _name_and_version(folder), version)


def _content(path: str) -> bytes:
    """The content of a small file, read in a faster way than with open(), since there is one for each distribution."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(fd, _CHUNK), b""))
    finally:
        os.close(fd)


def _name_and_version(folder: str) -> tuple[str, str]:
    """Name and version from the headers of METADATA or PKG-INFO, or from the folder's name if there is no such file."""
    name, _, version = os.path.splitext(os.path.basename(folder))[0].partition("-")
    for file_name in ("METADATA", "PKG-INFO"):
        try:
            with open(os.path.join(folder, file_name), encoding="utf-8", errors="replace") as file:
                for line in file:
                    key, _, value = line.partition(":")
                    if not line.strip():
                        break
                    if key == "Name":
                        name = value.strip()
                    elif key == "Version":
                        version = value.strip()
            break
        except OSError as error:
            _pass_on_shortage(error)
            continue
    return name, version


def _pass_on_shortage(error: Exception) -> None:
    """Raise ``error`` where it is the host that has no more descriptors or memory: the package may well be there."""
    if shortage(error):
        raise error

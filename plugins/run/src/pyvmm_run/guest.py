"""What a guest has: its root file system, the host's directories, its network; and how it is told of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from pyvmm.errors import UsageError, nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final

    from pyvmm_run.session import CommandError

CHANGES: Final = ("refused", "discarded", "kept")
"""What can become of changes of the root file system."""

# <linux/mount.h>
_RDONLY: Final = 1
_NOSUID: Final = 2
_NODEV: Final = 4
_NOEXEC: Final = 8

_ROOT: Final = "/root"
"""Where the guest's program has the root file system before it becomes the root."""

_MODULES: Final = ("virtio_mmio", "vmw_vsock_virtio_transport")

_MAGIC: Final = {
    "ext4": (1080, b"\x53\xef"),
    "erofs": (1024, b"\xe2\xe1\xf5\xe0"),
    "xfs": (0, b"XFSB"),
    "squashfs": (0, b"hsqs"),
    "btrfs": (65536 + 64, b"_BHRfS_M"),
}
"""File systems by the bytes in their superblocks: the place, and what is there."""

_MOUNTS: Final = (
    ("proc", "proc", _NOSUID | _NODEV | _NOEXEC, ""),
    ("sys", "sysfs", _NOSUID | _NODEV | _NOEXEC, ""),
    ("dev", "devtmpfs", _NOSUID, ""),
    ("dev/pts", "devpts", _NOSUID | _NOEXEC, "ptmxmode=0666,mode=620,gid=5"),
    ("dev/shm", "tmpfs", _NOSUID | _NODEV, "mode=1777"),
    ("run", "tmpfs", _NOSUID | _NODEV, "mode=755"),
    ("tmp", "tmpfs", _NOSUID | _NODEV, "mode=1777"),
)
"""What every guest has: place, type, flags and data."""

_LINKS: Final = (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2"))
"""Links in /dev to /proc/self/fd."""


class Volume:
    """A directory of the host that the guest has at a place of its own."""

    def __init__(self, text: str) -> None:
        """``text``: ``DIR:GUEST_DIR`` or ``DIR:GUEST_DIR:ro``. Raises :class:`UsageError`."""
        parts = text.split(":")
        self.read_only = len(parts) == 3 and parts[2] == "ro"
        if len(parts) not in (2, 3) or (len(parts) == 3 and parts[2] not in ("ro", "rw")) or not all(parts):
            raise UsageError(f"volume {text!r}: give DIR:GUEST_DIR or DIR:GUEST_DIR:ro")
        self.directory = _directory(parts[0], "volume")
        self.target = os.path.normpath(parts[1])
        if not self.target.startswith("/") or self.target == "/":
            raise UsageError(f"volume {text!r}: {parts[1]!r} is no absolute path of a directory in the guest")


class Guest:
    """One guest's file systems and network."""

    def __init__(
        self,
        *,
        image: str | os.PathLike[str] | None = None,
        root: str | os.PathLike[str] | None = None,
        volumes: Sequence[str] = (),
        changes: str = "refused",
        net: bool = False,
        hostname: str = "pyvmm",
    ) -> None:
        """Raises :class:`UsageError` for what cannot be a guest's."""
        if image is not None and root is not None:
            raise UsageError("a guest has one root file system: give an image or a root, not both")
        if changes not in CHANGES:
            hint = nearest(changes, CHANGES)
            raise UsageError(f"changes: {changes!r} is not one of {', '.join(CHANGES)}{hint}")
        if changes == "kept" and image is None and root is None:
            raise UsageError("changes: the host's own user land is never changed; choose refused or discarded")
        if not hostname or len(os.fsencode(hostname)) > 64:
            raise UsageError(f"hostname: {hostname!r} has not 1 to 64 bytes")
        self._changes = changes
        self._hostname = hostname
        self._net = net
        self._volumes = [Volume(text) for text in volumes]
        self._image = None if image is None else os.path.abspath(image)
        self._type = "virtiofs" if self._image is None else _file_system_of(self._image)
        self._root = "/" if root is None else _directory(os.fspath(root), "root")
        if self._image is None and changes != "discarded":
            for place, *_ in _MOUNTS:
                if "/" not in place and not Path(self._root, place).is_dir():
                    raise UsageError(
                        f"root: {self._root} has no directory {place!r}, which a guest needs; make it, or have "
                        "changes discarded"
                    )

    @property
    def has_to_end_itself(self) -> bool:
        """Whether a sudden end could lose what the guest has written."""
        return self._image is not None and self._changes == "kept"

    @property
    def modules(self) -> list[str]:
        """The kernel modules that the guest needs."""
        names = [*_MODULES, self._type]
        if self._image is not None:
            names.append("virtio_blk")
        if self._volumes:
            names.append("virtiofs")
        if self._changes == "discarded":
            names.append("overlay")
        if self._net:
            names.append("virtio_net")
        return list(dict.fromkeys(names))

    @property
    def optional_modules(self) -> list[str]:
        """Those that it needs where the kernel has not built them in, and does not name as what another one needs."""
        return ["crc32c_generic"] if self._image is not None else []

    @property
    def devices(self) -> list[str]:
        """The machine's devices, as on the command line of pyvmm."""
        read_only = "" if self._changes == "kept" else ",ro"
        if self._image is not None:
            devices = [f"block:path={_escaped(self._image)}{read_only}"]
        else:
            devices = [f"fs:directory={_escaped(self._root)},tag=root{read_only}"]
        for index, volume in enumerate(self._volumes):
            read_only = ",ro" if volume.read_only else ""
            devices.append(f"fs:directory={_escaped(volume.directory)},tag=volume{index}{read_only}")
        if self._net:
            devices.append("net:user")
        return devices

    def setup(self) -> list[str]:
        """What the guest's program is asked to do, step by step: see ``agent/PROTOCOL.md``."""
        return [*self._root_steps(), *self._steps()]

    def setup_failure(self, error: CommandError) -> str:
        """One line for a step that failed."""
        what = error.what.removeprefix(_ROOT) or "/"
        hint = ""
        if error.errno == errno.EROFS:
            hint = "; it does not exist, and the root file system is read-only: have changes discarded"
        elif error.errno == errno.ENODEV:
            hint = "; the guest's kernel does not know the type of this file system"
        return f"the guest cannot be set up: {what}: {os.strerror(error.errno)}{hint}"

    def _root_steps(self) -> Iterator[str]:
        """The root file system, at :data:`_ROOT`."""
        source = "root" if self._image is None else "/dev/vda"
        flags = 0 if self._changes == "kept" else _RDONLY
        if self._changes != "discarded":
            yield from _mount(_ROOT, self._type, source, flags)
            return
        yield from _mount("/lower", self._type, source, flags)
        yield from _mount("/changes", "tmpfs", "tmpfs", 0)
        yield from ("D", "/changes/upper", "D", "/changes/work")
        yield from _mount(
            _ROOT, "overlay", "overlay", 0, "lowerdir=/lower,upperdir=/changes/upper,workdir=/changes/work"
        )

    def _steps(self) -> Iterator[str]:
        for place, type, flags, data in _MOUNTS:
            yield from _mount(f"{_ROOT}/{place}", type, type, flags, data)
        for name, target in _LINKS:
            yield from ("L", f"{_ROOT}/dev/{name}", f"/proc/self/fd{target}")
        for index, volume in enumerate(self._volumes):
            flags = _RDONLY if volume.read_only else 0
            yield from _mount(f"{_ROOT}{volume.target}", "virtiofs", f"volume{index}", flags)
        yield from ("R", _ROOT)
        yield from ("H", self._hostname)


def _mount(target: str, type: str, source: str, flags: int, data: str = "") -> tuple[str, ...]:
    return ("M", target, type, source, str(flags), data)


def _escaped(path: str) -> str:
    """A path within a device's text: a comma is doubled there."""
    return path.replace(",", ",,")


def _directory(path: str, what: str) -> str:
    if not os.path.isdir(path):
        wrong = "is no directory" if os.path.lexists(path) else "does not exist"
        raise UsageError(f"{what}: {path} {wrong}; give a directory of this host")
    return os.path.abspath(path)


def _file_system_of(image: str) -> str:
    """The type of the file system in ``image``. Raises :class:`UsageError` where it has none that is known."""
    try:
        with open(image, "rb") as file:
            for type, (place, magic) in _MAGIC.items():
                file.seek(place)
                if file.read(len(magic)) == magic:
                    return type
    except OSError as error:
        raise UsageError(f"image: {image}: {error.strerror}; give a file with a file system") from error
    raise UsageError(
        f"image: {image} has no file system of {', '.join(_MAGIC)} at its beginning; an image with partitions, or of "
        "another format than raw, cannot be run"
    )

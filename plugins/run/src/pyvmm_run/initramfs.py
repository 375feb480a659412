"""The guest's initramfs: the guest's program, and the kernel's modules that it loads.

The format is cpio's "newc": Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from pathlib import Path

from pyvmm.errors import HostError

from pyvmm_run import modules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

AGENT: Final = Path(__file__).parent / "agent"
"""The guest's program, which is built with this package."""


def make(module_files: Sequence[Path]) -> bytes:
    """An archive with the guest's program as ``/init`` and with ``module_files``, which it loads in their order."""
    names = [f"/modules/{modules.name_of(str(file))}.ko" for file in module_files]
    entries: list[tuple[str, int, bytes]] = [
        ("dev", stat.S_IFDIR | 0o755, b""),
        ("proc", stat.S_IFDIR | 0o755, b""),
        ("sys", stat.S_IFDIR | 0o755, b""),
        ("modules", stat.S_IFDIR | 0o755, b""),
        ("init", stat.S_IFREG | 0o755, agent()),
        ("modules/list", stat.S_IFREG | 0o644, "".join(f"{name}\n" for name in names).encode()),
    ]
    entries += [
        (name[1:], stat.S_IFREG | 0o644, modules.contents(file)) for name, file in zip(names, module_files, strict=True)
    ]
    return archive(entries)


def agent() -> bytes:
    """The guest's program. Raises :class:`HostError` where it was not built."""
    try:
        return AGENT.read_bytes()
    except OSError as error:
        raise HostError(f"{AGENT}: {error.strerror}; build it: install pyvmm-run again") from error


def archive(entries: Sequence[tuple[str, int, bytes]]) -> bytes:
    """A cpio archive of files and directories: name, mode and contents of each."""
    out = bytearray()
    for inode, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        encoded = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        for part in (b"070701" + b"".join(b"%08X" % field for field in fields) + encoded, data):
            out += part
            out += bytes(-len(out) % 4)
    return bytes(out)

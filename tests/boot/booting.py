"""Boots a guest through the command, as a user does, and returns the result."""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.guest import artefacts
from tests.system.prepared import TOP

PYVMM = TOP / ".venv/bin/pyvmm"
SILENCE = 600
"""Seconds without a word of the guest after which a boot hangs. An emulated machine takes long, and longer on a busy
host."""


@dataclass(frozen=True)
class Boot:
    """One run of pyvmm."""

    status: int
    output: str
    """What the guest said on its console."""
    errors: str
    """What pyvmm said on stderr."""

    def value(self, name: str) -> str:
        """What the guest's script printed as ``NAME=value``."""
        found = re.search(rf"^{re.escape(name)}=(.*?)\r?$", self.output, re.MULTILINE)
        assert found, f"the guest did not say {name}:\n{self.output[-4000:]}\n{self.errors}"
        return found[1]

    def assert_passed(self) -> None:
        """The script ended well, and so did pyvmm."""
        assert "PYVMM-SCRIPT-EXIT 0" in self.output, f"{self.output[-4000:]}\n{self.errors}"
        assert self.status == 0, self.errors


def run(arguments: Sequence[str]) -> Boot:
    """Run ``pyvmm`` with ``arguments`` to its end."""
    output = b""
    with tempfile.TemporaryFile() as errors:

        def complaints() -> str:
            errors.seek(0)
            return errors.read().decode(errors="replace")

        def seen() -> str:
            return f"{output[-4000:].decode(errors='replace')}\n{complaints()}"

        process = subprocess.Popen(
            [str(PYVMM), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        with process:
            assert process.stdout is not None
            try:
                while data := read_some(process.stdout.fileno(), seen):
                    output += data
                status = process.wait(SILENCE)
            finally:
                process.kill()
        return Boot(status, output.decode(errors="replace"), complaints())


def read_some(fd: int, seen: Callable[[], object]) -> bytes:
    """What a guest says next at ``fd``, or nothing at its end; raises AssertionError, with what was ``seen``, where
    it says nothing for long."""
    ready, _, _ = select.select([fd], [], [], SILENCE)
    assert ready, f"the guest has said nothing for {SILENCE} s: {seen()}"
    return os.read(fd, 65536)


def boot(
    scratch: Path,
    script: str,
    *arguments: str,
    flavour: str = "cloud",
    elf: bool = False,
    cmdline: str = "quiet",
    tools: Sequence[str] = (),
) -> Boot:
    """Boot one of Debian's kernels into ``script``, with more ``arguments`` for the command.

    ``tools`` are commands of this host that the guest's script can call by name; they come on a disk, the last
    one of the guest's.
    """
    return run(guest_arguments(scratch, script, *arguments, flavour=flavour, elf=elf, cmdline=cmdline, tools=tools))


def guest_arguments(
    scratch: Path,
    script: str,
    *arguments: str,
    flavour: str = "cloud",
    elf: bool = False,
    cmdline: str = "quiet",
    tools: Sequence[str] = (),
) -> list[str]:
    """The command's arguments for what :func:`boot` does."""
    guest = artefacts.ensure(flavour)
    if tools:
        disks = sum(argument.startswith("block:") for argument in arguments)
        letter = chr(ord("a") + disks)
        script = (
            _TOOLS.format(letter=letter) + "".join(f'{tool}() {{ tool {tool} "$@"; }}\n' for tool in tools) + script
        )
        arguments += ("--device", f"block:{artefacts.tools_disk(*tools)},ro")
    initrd = artefacts.with_script(guest.initramfs, script, scratch / "initrd")
    kernel = guest.vmlinux if elf else guest.vmlinuz
    return ["--kernel", str(kernel), "--initrd", str(initrd), "--cmdline", cmdline, *arguments]


_TOOLS = """
mkdir -p /tools && mount -t ext4 -o ro /dev/vd{letter} /tools || exit 99
for d in dev proc sys; do mount --bind /$d /tools/$d; done
mount -t tmpfs none /tools/tmp
tool() {{ chroot /tools "$@"; }}
"""

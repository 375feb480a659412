"""A fresh Debian in a directory, in which commands run as on a machine of their own. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.system.debian import host_apt

# For a mount namespace of its own: what is mounted for the run is gone after it.
ENTER = 'mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" && exec chroot "$@"'
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
BOOKKEEPING = ("proc", "dev", "tmp", "run", "var/lib/dpkg", "var/lib/apt", "var/cache", "var/log", "packages")
"""Where apt and dpkg themselves write."""


class Chroot:
    """The Debian in the archive ``tar``, unpacked at ``root`` as long as a ``with`` lasts."""

    def __init__(self, tar: Path, root: Path) -> None:
        self.tar = tar
        self.root = root

    def __enter__(self) -> Chroot:
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()
        subprocess.run(["tar", "-C", self.root, "-xf", self.tar], check=True)
        # How this host's apt reaches its archive holds there too.
        for name in ("resolv.conf", "hosts"):
            shutil.copy(f"/etc/{name}", self.root / "etc" / name)
        (self.root / "etc/apt/apt.conf.d/10host").write_text(host_apt())
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def run(self, *command: str) -> str:
        """What ``command`` prints; raises CalledProcessError where it fails."""
        result = self.ask(*command)
        result.check_returncode()
        return result.stdout

    def ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*command),
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def command(self, *command: str) -> list[str]:
        """The command line that runs ``command`` in it."""
        return ["unshare", "--mount", "sh", "-ec", ENTER, "sh", str(self.root), *command]

    def files(self) -> set[str]:
        """All files but those that apt and dpkg keep."""
        found = set()
        for directory, _, names in os.walk(self.root):
            inside = os.path.relpath(directory, self.root)
            if not any(inside == place or inside.startswith(place + "/") for place in BOOKKEEPING):
                found |= {f"{inside}/{name}" for name in names}
        return found

"""Debian's releases as directories or tar files, made by mmdebstrap. Needs root."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.system.kernels import PreparationError

AREAS = ("", "-updates", "-security")
"""What a release consists of: its name with each of these is a name below an archive's ``dists``."""


def make_debian(
    suite: str,
    target: Path,
    *,
    tar: bool = False,
    include: Iterable[str] = (),
    hooks: Iterable[str] = (),
) -> None:
    """Make a minimal Debian ``suite`` with the packages ``include``: a directory, or a tar file.

    ``hooks`` are run by mmdebstrap at its end, with the directory as ``$1``.
    """
    program = shutil.which("mmdebstrap")
    if program is None:
        raise PreparationError("mmdebstrap is not installed (tests/system/require chroot)")
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as options:
        options.write(host_apt())
        options.flush()
        command = [program, "--quiet", "--mode=root", "--variant=minbase", f"--aptopt={options.name}"]
        command += ["--format=tar" if tar else "--format=directory"]
        command += [f"--include={package}" for package in include]
        command += [f"--customize-hook={hook}" for hook in hooks]
        result = subprocess.run([*command, suite, str(target), *archives(suite)], capture_output=True, text=True)
    if result.returncode:
        raise PreparationError(f"mmdebstrap failed: {result.stderr.strip()[-1000:]}")


def host_apt() -> str:
    """How this host's apt fetches: what makes it work here makes it work in a chroot."""
    return subprocess.check_output(["apt-config", "dump", "Acquire"], text=True)


def archives(suite: str) -> list[str]:
    """Lines of a sources.list for ``suite``, with the archives from which this host has its Debian.

    Empty where this host has none: mmdebstrap then takes its default.
    """
    found = lines_for(suite, _index_targets())
    if not found:
        subprocess.run(["apt-get", "-qq", "update"], check=False)
        found = lines_for(suite, _index_targets())
    return found


def lines_for(suite: str, targets: str) -> list[str]:
    """``targets`` has the codename and the archive of each index that apt fetches, one to a line."""
    uris: dict[str, str] = {}
    for line in targets.splitlines():
        codename, uri = line.split(" ", 1)
        _, dash, area = codename.partition("-")
        if dash + area in AREAS:
            uris.setdefault(dash + area, uri)
    return [f"deb {uri} {suite}{area} main" for area, uri in uris.items()]


def _index_targets() -> str:
    """Codenames are known only once apt has fetched its lists."""
    command = ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"]
    return subprocess.run([*command, "Origin: Debian"], capture_output=True, text=True, check=False).stdout

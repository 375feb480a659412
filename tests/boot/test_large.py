"""A large guest: more CPUs, and memory past 4 GiB."""

from __future__ import annotations

from pathlib import Path

from tests.boot import linux


def test_linux_as_elf_with_4_cpus_and_5_gib(tmp_path: Path) -> None:
    linux.check(tmp_path, flavour="cloud", elf=True, cpus=4, memory="5G", end="poweroff")

"""A large guest: more CPUs, and memory past 4 GiB."""

from __future__ import annotations

from pathlib import Path

from tests.boot import linux
from tests.boot.booting import boot


def test_linux_as_elf_with_4_cpus_and_5_gib(tmp_path: Path) -> None:
    linux.check(tmp_path, flavour="cloud", elf=True, cpus=4, memory="5G", end="poweroff")


def test_a_guest_with_16_cpus_sees_16_cores_of_one_socket(tmp_path: Path) -> None:
    script = """
    cd /sys/devices/system/cpu
    echo CPUS=$(nproc)
    echo ONLINE=$(cat online)
    echo CORES=$(cat cpu*/topology/core_id | sort -n | uniq | wc -l)
    echo SOCKETS=$(cat cpu*/topology/physical_package_id | sort -n | uniq | wc -l)
    """
    result = boot(tmp_path, script, "-v", "--cpus", "16", cmdline="quiet")

    result.assert_passed()
    assert result.value("CPUS") == "16"
    assert result.value("ONLINE") == "0-15"
    assert (result.value("CORES"), result.value("SOCKETS")) == ("16", "1")
    assert "cpus: 16 are more than the" in result.errors

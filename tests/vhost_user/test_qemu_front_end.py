"""Our devices in a machine of QEMU's: Debian's QEMU, emulated, so that it runs on any host; and a Debian kernel."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from pathlib import Path

import pytest

from tests.guest import artefacts, disk
from tests.guest.tap import tap
from tests.vhost_user.served import Qemu, Served, disk_arguments, iperf_server, net_arguments

pytestmark = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed")

USE_THE_DISK = """
echo DISK=$(sha256sum /dev/vda | cut -d' ' -f1)
mount -t ext4 /dev/vda /mnt || exit 1
(cd /mnt && sha256sum -c manifest.sha256) || exit 2
echo written by the guest >/mnt/from-guest.txt
dd if=/dev/urandom of=/mnt/large.bin bs=1M count=16 2>/dev/null || exit 3
echo LARGE=$(sha256sum /mnt/large.bin | cut -d' ' -f1)
sync
umount /mnt
"""

VERIFY = """
echo STARTED
fio --name=verify --filename=/dev/vda --rw=randrw --bs=4k-64k --size=48M --iodepth=32 --ioengine=libaio --direct=1 \\
    --verify=crc32c --verify_backlog=64 --verify_fatal=1 --do_verify=1 --time_based \\
    --runtime=15 --minimal >/tmp/fio 2>&1 || {
    cat /tmp/fio
    exit 1
}
sync
echo VERIFIED=yes
"""


def test_a_disk(tmp_path: Path) -> None:
    image = artefacts.fresh_disk(tmp_path / "disk.img")
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    with Served(f"block:{image}", tmp_path / "disk.sock") as served:
        with Qemu(tmp_path, USE_THE_DISK, *disk_arguments(served.path)) as machine:
            machine.wait()
        assert served.stop() == 0
        assert not served.path.exists()

    assert machine.value("DISK") == digest
    assert hashlib.sha256(disk.read_file(image, "/large.bin")).hexdigest() == machine.value("LARGE")
    assert disk.read_file(image, "/from-guest.txt") == b"written by the guest\n"
    assert disk.check(image) == ""


def test_machines_one_after_the_other(tmp_path: Path) -> None:
    image = artefacts.fresh_disk(tmp_path / "disk.img")
    with Served(f"block:{image}", tmp_path / "disk.sock") as served:
        with Qemu(tmp_path, "sync; echo 1st >/dev/vda", *disk_arguments(served.path)) as machine:
            machine.wait()
        # A machine that is not shut down, but gone.
        with Qemu(tmp_path, "echo UP=yes; sleep 100", *disk_arguments(served.path)) as machine:
            machine.wait_for("UP=yes")
        with Qemu(tmp_path, "echo FIRST=$(head -c 3 /dev/vda)", *disk_arguments(served.path)) as machine:
            machine.wait()

    assert machine.value("FIRST") == "1st"


def test_a_guest_that_reboots(tmp_path: Path) -> None:
    image = artefacts.fresh_disk(tmp_path / "disk.img")
    script = """
if [ "$(head -c 5 /dev/vda)" = first ]; then
    echo SECOND=yes
    poweroff -f
fi
echo first >/dev/vda
sync
"""
    with (
        Served(f"block:{image}", tmp_path / "disk.sock") as served,
        Qemu(tmp_path, script, *disk_arguments(served.path), cmdline="quiet pyvmm.end=reboot", reboots=True) as machine,
    ):
        machine.wait()

    assert machine.value("SECOND") == "yes"


def test_fio_verifies_what_it_wrote(tmp_path: Path) -> None:
    image = artefacts.fresh_disk(tmp_path / "disk.img")
    script = VERIFY
    with (
        Served(f"block:{image}", tmp_path / "disk.sock") as served,
        Qemu(tmp_path, script, *disk_arguments(served.path), tools=["fio"]) as machine,
    ):
        machine.wait()

    assert machine.value("VERIFIED") == "yes"


def test_a_machine_is_paused_again_and_again_while_fio_verifies(tmp_path: Path) -> None:
    image = artefacts.fresh_disk(tmp_path / "disk.img")
    script = VERIFY
    pauses = 0
    with (
        Served(f"block:{image}", tmp_path / "disk.sock") as served,
        Qemu(tmp_path, script, *disk_arguments(served.path), tools=["fio"]) as machine,
    ):
        machine.wait_for("STARTED")
        while not machine.has_said("VERIFIED"):
            time.sleep(1)
            with contextlib.suppress(OSError):  # where it has ended just now
                machine.command("stop", "cont")
                pauses += 1
        machine.wait()

    assert machine.value("VERIFIED") == "yes"
    assert pauses > 3


def test_a_killed_back_end_that_comes_back_has_lost_nothing(tmp_path: Path) -> None:
    image = artefacts.fresh_disk(tmp_path / "disk.img")
    script = VERIFY
    with (
        Served(f"block:{image},direct", tmp_path / "disk.sock") as served,
        Qemu(tmp_path, script, *disk_arguments(served.path, reconnect=True), tools=["fio"]) as machine,
    ):
        machine.wait_for("STARTED")
        for _ in range(5):
            time.sleep(1.5)
            served.kill()
            served.start()
        assert not machine.has_said("VERIFIED"), "fio was too quick"
        machine.wait()
    assert "requests in flight are taken again" in served.errors

    assert machine.value("VERIFIED") == "yes"


def test_a_network_card(tmp_path: Path) -> None:
    with tap() as interface, iperf_server(interface.host):
        script = f"""
ip address add {interface.guest}/{interface.prefix} dev eth0 && ip link set eth0 up || exit 1
ping -c 5 -i 0.2 -W 5 {interface.host} || exit 2
iperf3 -c {interface.host} -t 3 -J >/tmp/up || exit 3
iperf3 -c {interface.host} -t 3 -R -J >/tmp/down || exit 4
echo UP=$(grep -A12 '"sum_received"' /tmp/up | grep bits_per_second | tr -dc '0-9.')
echo DOWN=$(grep -A12 '"sum_received"' /tmp/down | grep bits_per_second | tr -dc '0-9.')
"""
        with (
            Served(f"net:{interface.name}", tmp_path / "net.sock") as served,
            Qemu(tmp_path, script, *net_arguments(served.path), tools=["iperf3"]) as machine,
        ):
            machine.wait()

    assert "5 packets received, 0% packet loss" in machine.output.replace("5 received", "5 packets received")
    assert float(machine.value("UP")) > 1e6
    assert float(machine.value("DOWN")) > 1e6


def test_a_disk_and_a_network_card_with_the_other_kernel(tmp_path: Path) -> None:
    image = artefacts.fresh_disk(tmp_path / "disk.img")
    with tap() as interface:
        script = f"""{USE_THE_DISK}
ip address add {interface.guest}/{interface.prefix} dev eth0 && ip link set eth0 up || exit 4
ping -c 3 -i 0.2 -W 5 {interface.host} || exit 5
"""
        with (
            Served(f"block:{image}", tmp_path / "disk.sock") as served_disk,
            Served(f"net:{interface.name}", tmp_path / "net.sock") as served_net,
            Qemu(
                tmp_path,
                script,
                *disk_arguments(served_disk.path),
                *net_arguments(served_net.path),
                flavour="amd64",
            ) as machine,
        ):
            machine.wait()

    assert disk.check(image) == ""

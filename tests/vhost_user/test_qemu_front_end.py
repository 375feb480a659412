"""Our devices in a machine of QEMU's: Debian's QEMU, emulated, so that it runs on any host; and a Debian kernel."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyvmm.testing.waiting import wait_until

from tests.guest import artefacts, disk
from tests.guest.tap import tap
from tests.vhost_user.served import (
    SILENCE,
    Qemu,
    Served,
    disk_arguments,
    iperf_server,
    net_arguments,
    rng_arguments,
    vsock_arguments,
)

pytestmark = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed")

USE_THE_DISK = """
echo DISK=$(sha256sum /dev/vda | cut -d' ' -f1)
mount -t ext4 /dev/vda /mnt || exit 1
(cd /mnt && sha256sum -c manifest.sha256) || exit 2
echo written by the guest >/mnt/from-guest.txt
dd if=/dev/urandom of=/mnt/large.bin bs=1M count=4 2>/dev/null || exit 3
echo LARGE=$(sha256sum /mnt/large.bin | cut -d' ' -f1)
sync
umount /mnt
"""

USE_THE_CARD = """
ip address add {guest}/{prefix} dev eth0 && ip link set eth0 up || exit 4
ping -c 3 -i 0.2 -W 5 {host} || exit 5
"""

VERIFY = """
( until [ "$(awk '{print $5}' /sys/block/vda/stat)" -gt 0 ]; do sleep 0.1; done; echo STARTED ) &
fio --name=verify --filename=/dev/vda --rw=randrw --bs=4k-64k --size=48M --iodepth=32 --ioengine=libaio --direct=1 \\
    --fsync=4 --verify=crc32c --verify_backlog=64 --verify_fatal=1 --do_verify=1 --time_based \\
    --runtime=10 --minimal >/tmp/fio 2>&1 || {
    cat /tmp/fio
    exit 1
}
sync
echo VERIFIED=yes
"""

USE_THE_SOCKETS = """
head -c 100000 /dev/urandom >/tmp/up
socat -t 60 - VSOCK-CONNECT:2:1024 </tmp/up >/tmp/down || exit 6
cmp /tmp/up /tmp/down || exit 7
echo OUT=works
socat -t 60 VSOCK-LISTEN:52,fork EXEC:"/bin/busybox cat" &
echo LISTENING=yes
until [ -e /tmp/done ]; do
    socat -u VSOCK-CONNECT:2:1025 - >/tmp/word 2>/dev/null && mv /tmp/word /tmp/done
    sleep 0.2
done
"""


def test_a_disk_a_card_entropy_and_sockets(tmp_path: Path) -> None:
    image = artefacts.fresh_disk(tmp_path / "disk.img")
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    entropy = random.Random(1).randbytes(4 << 20)
    (tmp_path / "entropy").write_bytes(entropy)
    sockets = tmp_path / "vsock"
    with contextlib.ExitStack() as stack:
        interface = stack.enter_context(tap())
        stack.enter_context(iperf_server(interface.host))
        stack.enter_context(echo_server(Path(f"{sockets}_1024")))
        disk_, net, rng, vsock = (
            stack.enter_context(Served(device, tmp_path / f"{name}.sock"))
            for name, device in (
                ("disk", f"block:{image}"),
                ("net", f"net:{interface.name}"),
                ("rng", f"rng:{tmp_path}/entropy"),
                ("served-vsock", f"vsock:{sockets},cid=52"),
            )
        )
        card = USE_THE_CARD.format(host=interface.host, guest=interface.guest, prefix=interface.prefix)
        script = f"""
{USE_THE_DISK}
{card}
iperf3 -c {interface.host} -n 2M -J >/tmp/up || exit 8
iperf3 -c {interface.host} -n 2M -R -J >/tmp/down || exit 9
for way in up down; do
    echo $way=$(grep -A12 '"sum_received"' /tmp/$way | grep '"bytes"' | tr -dc 0-9)
done
echo RNG=$(cat /sys/class/misc/hw_random/rng_current)
echo ENTROPY=$(head -c 32 /dev/hwrng | hexdump -v -e '1/1 "%02x"')
{USE_THE_SOCKETS}
"""
        machine = stack.enter_context(
            Qemu(
                tmp_path,
                script,
                *disk_arguments(disk_.path),
                *net_arguments(net.path),
                *rng_arguments(rng.path),
                *vsock_arguments(vsock.path),
                tools=["iperf3", "socat"],
            )
        )
        machine.wait_for("LISTENING=yes")
        assert ask_guest(sockets, 52, entropy[:100_000]) == entropy[:100_000]
        with listener(Path(f"{sockets}_1025")) as listening:
            listening.accept()[0].close()
        machine.wait()
        for served in (disk_, net, rng, vsock):
            assert served.stop() == 0
            assert not served.path.exists()

    assert machine.value("DISK") == digest
    assert hashlib.sha256(disk.read_file(image, "/large.bin")).hexdigest() == machine.value("LARGE")
    assert disk.read_file(image, "/from-guest.txt") == b"written by the guest\n"
    assert disk.check(image) == ""
    assert re.search("3 packets received|3 received", machine.output)
    # What is under way when the sender has sent all is not counted.
    assert int(machine.value("up")) > 500_000
    assert int(machine.value("down")) > 500_000
    assert machine.value("RNG") == "virtio_rng.0"
    assert bytes.fromhex(machine.value("ENTROPY"))[:16] in entropy
    assert machine.value("OUT") == "works"


def test_machines_one_after_the_other_and_a_guest_that_reboots(tmp_path: Path) -> None:
    image = artefacts.fresh_disk(tmp_path / "disk.img")
    reboot = """
case "$(head -c 5 /dev/vda)" in
    first) echo UP=yes && sleep 600 ;;
    *) echo first >/dev/vda && sync && exit 0 ;;
esac
"""
    with Served(f"block:{image}", tmp_path / "disk.sock") as served:
        arguments = disk_arguments(served.path)
        # A machine that is not shut down, but gone.
        with Qemu(tmp_path, reboot, *arguments, cmdline="quiet pyvmm.end=reboot", reboots=True) as machine:
            machine.wait_for("UP=yes")
        with Qemu(tmp_path, "echo FIRST=$(head -c 5 /dev/vda)", *arguments) as machine:
            machine.wait()

    assert machine.value("FIRST") == "first"


def test_fio_verifies_while_the_machine_is_paused_and_the_back_end_killed(tmp_path: Path) -> None:
    image = artefacts.fresh_disk(tmp_path / "disk.img")
    with (
        Served(f"block:{image},direct", tmp_path / "disk.sock") as served,
        Qemu(tmp_path, VERIFY, *disk_arguments(served.path, reconnect=True), tools=["fio"]) as machine,
    ):
        machine.wait_for("STARTED")
        for _ in range(4):
            with contextlib.suppress(OSError, ValueError):  # where it has ended just now
                machine.command("stop", "cont")
            served.kill()
            taken_up = served.errors.count(": active, features")
            served.start()
            wait_until_taken_up(served, machine, taken_up + 1)  # QEMU looks for it once a second
            if machine.has_said("PYVMM-SCRIPT-EXIT"):
                break
        machine.wait()
        assert served.errors.count(": active, features") > 1

    assert machine.value("VERIFIED") == "yes"


def wait_until_taken_up(served: Served, machine: Qemu, times: int) -> None:
    """Wait until the device was active so many times, or the guest's script has ended."""
    wait_until(
        lambda: served.errors.count(": active, features") >= times or machine.has_said("PYVMM-SCRIPT-EXIT"),
        machine.describe,
        timeout=SILENCE,
    )


@contextlib.contextmanager
def listener(path: Path) -> Iterator[socket.socket]:
    """A socket that a guest's stream can be connected to."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.settimeout(SILENCE)
        listening.bind(str(path))
        listening.listen()
        yield listening


@contextlib.contextmanager
def echo_server(path: Path) -> Iterator[None]:
    """Sends back what comes, to one client after the other."""
    server = subprocess.Popen(["socat", f"UNIX-LISTEN:{path},fork", "EXEC:cat"])
    try:
        yield
    finally:
        server.kill()
        server.wait()


def send(stream: socket.socket, data: bytes) -> None:
    """Say ``data``, and that there is no more."""
    stream.sendall(data)
    stream.shutdown(socket.SHUT_WR)


def ask_guest(path: Path, port: int, data: bytes) -> bytes:
    """What a server in the guest answers to ``data``."""
    deadline = time.monotonic() + SILENCE
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(SILENCE)
            stream.connect(str(path))
            stream.sendall(b"CONNECT %d\n" % port)
            with stream.makefile("rb") as answers:
                if not answers.readline().startswith(b"OK "):
                    time.sleep(0.1)
                    continue  # nobody listens yet
                sender = threading.Thread(target=send, args=[stream, data])
                sender.start()
                answer = answers.read()
                sender.join()
                return answer
    raise AssertionError(f"nobody listens at port {port} of the guest")

"""Devices in processes of their own, under Linux: seen from the host, killed under load, replaced."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import time
from pathlib import Path

from tests.boot.booting import SILENCE, guest_arguments
from tests.boot.running import Running, running
from tests.guest import artefacts
from tests.guest.tap import tap
from tests.system.prepared import CACHE

IN_FLIGHT = "requests in flight are repeated"


def children(machine: Running) -> dict[str, int]:
    """The devices' processes, by the name that ps shows."""
    rows = subprocess.run(
        ["ps", "-o", "pid=,comm=", "--ppid", str(machine.process.pid)], capture_output=True, text=True, check=False
    ).stdout.split("\n")
    return {name: int(pid) for pid, name in (row.split() for row in rows if row.strip())}


def has_ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def requests_in_flight(pid: int) -> int:
    """Of a process with one queue, by its own account of them (vhost-user, "Inflight I/O tracking")."""
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        if "vhost-user-inflight" in os.readlink(fd):
            area = fd.read_bytes()
            (descriptors,) = struct.unpack_from("<H", area, 10)
            return sum(area[16 : 16 + 16 * descriptors : 16])
    return 0


def stop_with_requests_in_flight(pid: int) -> None:
    """Stop the process at a moment when it has taken requests and not given them back."""
    deadline = time.monotonic() + SILENCE
    for turn in range(1 << 20):
        os.kill(pid, signal.SIGSTOP)
        while Path(f"/proc/{pid}/stat").read_text().rsplit(") ")[-1][0] != "T":
            assert time.monotonic() < deadline, "it does not stop"
        if requests_in_flight(pid):
            return
        assert time.monotonic() < deadline, "it never has requests in flight"
        os.kill(pid, signal.SIGCONT)
        time.sleep(turn % 8 / 1000)


def test_block_process_is_killed_under_load_and_the_machine_goes_on(tmp_path: Path) -> None:
    image = artefacts.fresh_disk(tmp_path / "disk.img")
    with tap() as interface:
        script = f"""
ip addr add {interface.guest}/{interface.prefix} dev eth0 && ip link set eth0 up || exit 1
ping -c 2 -W 5 {interface.host} >/dev/null || exit 2
read_all() {{ dd if=/dev/vda of=/dev/null bs=64k iflag=direct 2>/dev/null; }}
( while read_all; do >/tmp/once; done; echo READER-ENDED ) &
until [ -e /tmp/once ]; do sleep 0.1; done
echo LOADED=yes
read killed
i=0; while [ $i -lt 15 ]; do
    ping -c 1 -W 5 {interface.host} >/dev/null || exit 3
    i=$((i+1)); sleep 0.2
done
cat /sys/bus/virtio/devices/virtio*/status | sed 's/^/STATUS=/'
ping -c 3 -W 5 {interface.host} >/dev/null || exit 4
echo NET=works
"""
        arguments = ["--device", f"block:{image},process=on", "--device", f"net:{interface.name},process=on"]
        with running(tmp_path, guest_arguments(tmp_path, script, *arguments)) as machine:
            machine.wait_for("LOADED=yes")
            processes = children(machine)
            assert sorted(processes) == ["pyvmm:block0", "pyvmm:net0"]
            os.kill(processes["pyvmm:block0"], signal.SIGKILL)
            machine.wait_until(lambda: "was killed by SIGKILL" in machine.errors, "the death of the process is seen")
            machine.type("killed")
            result = machine.finish()

    result.assert_passed()
    assert result.value("NET") == "works"
    assert re.search("block0.*: its process was killed by SIGKILL", result.errors)
    assert "Traceback" not in result.errors
    # NEEDS_RESET, FAILED or both, of the disk; not of the card.
    states = [int(state, 16) for state in re.findall(r"STATUS=(0x[0-9a-f]+)", result.output)]
    assert sorted(bool(state & 0x40) for state in states) == [False, True]
    assert all(map(has_ended, processes.values()))


def test_fio_verifies_what_was_written_while_the_block_process_was_killed(tmp_path: Path) -> None:
    # A flush of it takes its time, also in a lab, whose files in /tmp are in memory.
    image = CACHE / "killed.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    script = """
modprobe crc32c_generic 2>/dev/null
( until [ "$(awk '{print $5}' /sys/block/vda/stat)" -gt 0 ]; do sleep 0.1; done; echo WRITING=yes ) &
fio --name=verify --filename=/dev/vda --rw=randrw --bs=4k-32k --size=16m --direct=1 --ioengine=libaio --iodepth=16 \\
    --fsync=8 --verify=crc32c --verify_backlog=32 --verify_fatal=1 --do_verify=1 \\
    --output=/tmp/fio || { cat /tools/tmp/fio; exit 1; }
echo FIO=passed
dmesg | grep -E 'I/O error|timed out' | sed 's/^/COMPLAINT /'
"""
    killed: list[int] = []
    arguments = ["-v", "--device", f"block:{image},process=on,restart=on"]
    with running(tmp_path, guest_arguments(tmp_path, script, *arguments, tools=["fio"])) as machine:
        machine.wait_for("WRITING=yes")
        for _ in range(2):
            # Not to be ended before the process is back: fio has much to do.
            assert "FIO=" not in machine.output, "fio was too quick"
            active = machine.errors.count(": active, features")
            killed.append(children(machine)["pyvmm:block0"])
            stop_with_requests_in_flight(killed[-1])
            os.kill(killed[-1], signal.SIGKILL)
            machine.wait_until(
                lambda active=active: machine.errors.count(": active, features") > active,  # type: ignore[misc]
                "another process has the disk",
            )
        result = machine.finish()

    image.unlink()
    result.assert_passed()
    assert result.value("FIO") == "passed"
    assert "COMPLAINT" not in result.output
    assert len(set(killed)) == len(killed)
    assert result.errors.count("its process was killed by SIGKILL; a new one replaces it") == len(killed)
    assert IN_FLIGHT in result.errors

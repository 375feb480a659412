"""rng, balloon, i8042, rtc and pvpanic under Debian's own drivers."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.boot.booting import SILENCE, guest_arguments
from tests.boot.running import Running, running

MIB = 1 << 20

LOOK = """
echo RNG=$(cat /sys/class/misc/hw_random/rng_current)
entropy() { dd if=/dev/hwrng bs=512 count=8 2>/dev/null | sha256sum; }
[ "$(entropy)" != "$(entropy)" ] && echo ENTROPY=$(dd if=/dev/hwrng bs=512 count=8 2>/dev/null | wc -c)
echo RTC=$(cat /sys/class/rtc/rtc0/since_epoch)
echo NAME=$(cat /sys/class/rtc/rtc0/name)
echo TIME=$(date +%s)
echo SET=$(dmesg | grep -c 'setting system clock to')
echo ALARMS=$(dmesg | grep -c 'alarms up to one day')
for file in /sys/class/input/input*/name; do echo KEYBOARD=$(cat $file); done
echo LINES=$(grep -cE ' (i8042|rtc0)$' /proc/interrupts)
echo I8042=$(dmesg | grep -c 'i8042: PNP: PS/2 Controller')
dmesg | grep -iE 'i8042|rtc' | sed 's/^/SAID /'
"""

FILL = """
mkdir -p /full && mount -t tmpfs -o size=128m full /full
dd if=/dev/zero of=/full/file bs=1M count=96 2>/dev/null
echo STATE=full
read go
rm /full/file
echo STATE=emptied
read go
"""


def held_for(machine: Running) -> int:
    """Bytes that the host holds for the guest's memory."""
    for fd in Path(f"/proc/{machine.process.pid}/fd").iterdir():
        if "guest-memory" in os.readlink(fd):
            return os.stat(fd).st_blocks * 512
    raise AssertionError("no memfd")


def resident_in(machine: Running) -> int:
    """Bytes of shared memory that the VMM's process has in RAM."""
    status = Path(f"/proc/{machine.process.pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssShmem:"))


def as_arguments(devices: Sequence[str]) -> list[str]:
    """Devices as the command line has them."""
    return [argument for device in devices for argument in ("--device", device)]


def ask(path: Path, line: str) -> dict[str, Any]:
    """A command at a control socket, and its answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SILENCE)
        client.connect(os.fspath(path))
        client.sendall(line.encode() + b"\n")
        return dict(json.loads(client.makefile().readline()))


def stats(machine: Running, path: Path) -> dict[str, Any]:
    """What the guest says of its memory: a busy one may not do so at once."""
    answers = [ask(path, "stats")]

    def is_answered() -> bool:
        if "error" in answers[-1]:
            answers.append(ask(path, "stats"))
        return "error" not in answers[-1]

    machine.wait_until(is_answered, "the balloon's statistics")
    return answers[-1]


def test_rng_rtc_keyboard_and_a_balloon_until_ctrl_alt_del(tmp_path: Path) -> None:
    balloon, keys = tmp_path / "balloon", tmp_path / "keys"
    devices = ["rng", "rtc", "pvpanic", f"i8042,socket={keys}", f"balloon,socket={balloon},reporting=off"]
    script = f"{LOOK}{FILL}echo STATE=small\nread go\nsleep 600\n"
    arguments = ["-v", "--memory", "256M", *as_arguments(devices)]
    begin = time.time()
    with running(tmp_path, guest_arguments(tmp_path, script, *arguments, cmdline="quiet reboot=k")) as machine:
        machine.wait_for("STATE=full")
        end = time.time()
        full = held_for(machine)
        machine.type("")
        machine.wait_for("STATE=emptied")
        # What the guest has freed costs the host as much as before, until the balloon takes it.
        held, resident = held_for(machine), resident_in(machine)
        before = stats(machine, balloon)
        assert ask(balloon, "size 120M") == {"target": 120 * MIB, "actual": 0}
        machine.wait_until(lambda: ask(balloon, "size")["actual"] == 120 * MIB, "the balloon's size")
        inflated, inflated_resident = held_for(machine), resident_in(machine)
        after = stats(machine, balloon)
        ask(balloon, "size 0")
        machine.wait_until(lambda: ask(balloon, "size")["actual"] == 0, "the balloon is empty")
        deflated = stats(machine, balloon)
        machine.type("")
        machine.wait_for("STATE=small")
        assert ask(keys, "ctrl-alt-del") == {"sent": "ctrl-alt-del"}
        result = machine.finish()
    print(f"held by the host: {held >> 20} MiB, with a balloon of 120 MiB {inflated >> 20} MiB")
    print(f"resident in the process: {resident >> 20} MiB, with the balloon {inflated_resident >> 20} MiB")

    assert result.status == 0, result.errors
    assert "the guest resets the machine" in result.errors
    assert result.value("RNG") == "virtio_rng.0"
    assert result.value("ENTROPY") == "4096"
    assert result.value("NAME").startswith("rtc_cmos")
    assert begin - 120 < int(result.value("RTC")) < end + 120  # the guest's clock in a lab is not exact
    assert begin - 120 < int(result.value("TIME")) < end + 120
    assert result.value("SET") == result.value("ALARMS") == "1"
    assert result.value("KEYBOARD") == "AT Translated Set 2 keyboard"
    assert result.value("I8042") == "1"
    assert result.value("LINES") == "2"
    assert full >= 96 * MIB
    assert held - inflated > 60 * MIB
    assert resident - inflated_resident > 60 * MIB
    assert before["free_memory"] - after["free_memory"] > 90 * MIB
    assert deflated["free_memory"] - after["free_memory"] > 90 * MIB


def test_freed_memory_comes_back_by_itself_and_a_panic_ends_the_machine(tmp_path: Path) -> None:
    script = f"{FILL}echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 600\n"
    arguments = ["-v", "--memory", "256M", *as_arguments(["balloon", "pvpanic"])]
    with running(tmp_path, guest_arguments(tmp_path, script, *arguments, flavour="amd64")) as machine:
        machine.wait_for("STATE=full")
        full, full_resident = held_for(machine), resident_in(machine)
        machine.type("")
        machine.wait_for("STATE=emptied")
        machine.wait_until(lambda: full - held_for(machine) > 60 * MIB, "free pages that are reported")
        emptied_resident = resident_in(machine)
        machine.type("")
        result = machine.finish()

    assert full_resident - emptied_resident > 60 * MIB
    assert result.status == 3
    assert "pyvmm: the guest crashed: its kernel panicked, as pvpanic0 reports" in result.errors
    assert "sysrq triggered crash" in result.output

"""rng, balloon, i8042, rtc and pvpanic under Debian's own drivers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.boot.booting import PYVMM, TIMEOUT, Boot
from tests.guest import artefacts

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


class Running:
    """A machine that runs while the test looks at it from the host."""

    def __init__(self, process: subprocess.Popen[bytes], scratch: Path) -> None:
        self.process = process
        self.scratch = scratch
        self.started = time.monotonic()

    @property
    def output(self) -> str:
        """What the guest has said until now."""
        return (self.scratch / "output").read_text(errors="replace")

    @property
    def errors(self) -> str:
        """What pyvmm has said until now."""
        return (self.scratch / "errors").read_text(errors="replace")

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = TIMEOUT) -> None:
        """Until ``condition`` holds, for it has no event on this side."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, f"pyvmm ended:\n{self.output[-3000:]}\n{self.errors}"
            assert time.monotonic() < deadline, f"not in {timeout} s: {what}\n{self.output[-3000:]}\n{self.errors}"
            time.sleep(0.1)

    def wait_for(self, text: str) -> None:
        """Until the guest has said ``text``."""
        self.wait_until(lambda: text in self.output, text)

    def go_on(self) -> None:
        """What the guest's ``read`` waits for."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    @property
    def held(self) -> int:
        """Bytes that the host holds for the guest's memory."""
        for fd in Path(f"/proc/{self.process.pid}/fd").iterdir():
            if "guest-memory" in os.readlink(fd):
                return os.stat(fd).st_blocks * 512
        raise AssertionError("no memfd")

    @property
    def resident(self) -> int:
        """Bytes of shared memory that the VMM's process has in RAM."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssShmem:"))

    def finish(self) -> Boot:
        """Wait for the end."""
        status = self.process.wait(timeout=TIMEOUT)
        return Boot(status, self.output, self.errors, time.monotonic() - self.started)


@contextmanager
def running(
    scratch: Path, script: str, *arguments: str, flavour: str = "cloud", cmdline: str = ""
) -> Iterator[Running]:
    """A guest that runs ``script``; its console's input is a pipe."""
    guest = artefacts.ensure(flavour)
    initrd = artefacts.with_script(guest.initramfs, script, scratch / "initrd")
    command = [str(PYVMM), "-v", "--kernel", str(guest.vmlinuz), "--initrd", str(initrd)]
    command += ["--cmdline", f"quiet {cmdline}", *arguments]
    with (scratch / "output").open("wb") as output, (scratch / "errors").open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=errors)
    with process:
        try:
            yield Running(process, scratch)
        finally:
            process.kill()


def as_arguments(devices: Sequence[str]) -> list[str]:
    """Devices as the command line has them."""
    return [argument for device in devices for argument in ("--device", device)]


def ask(path: Path, line: str) -> dict[str, Any]:
    """A command at a control socket, and its answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(os.fspath(path))
        client.sendall(line.encode() + b"\n")
        return dict(json.loads(client.makefile().readline()))


def test_rng_rtc_keyboard_and_a_balloon_until_ctrl_alt_del(tmp_path: Path) -> None:
    balloon, keys = tmp_path / "balloon", tmp_path / "keys"
    devices = ["rng", "rtc", "pvpanic", f"i8042,socket={keys}", f"balloon,socket={balloon},reporting=off"]
    script = f"{LOOK}{FILL}echo STATE=small\nread go\nsleep 600\n"
    with running(tmp_path, script, "--memory", "256M", *as_arguments(devices), cmdline="reboot=k") as machine:
        machine.wait_for("STATE=full")
        host_time = time.time()
        full = machine.held
        machine.go_on()
        machine.wait_for("STATE=emptied")
        # What the guest has freed costs the host as much as before, until the balloon takes it.
        held, resident = machine.held, machine.resident
        before = ask(balloon, "stats")
        assert ask(balloon, "size 120M") == {"target": 120 * MIB, "actual": 0}
        machine.wait_until(lambda: ask(balloon, "size")["actual"] == 120 * MIB, "the balloon's size")
        inflated, inflated_resident = machine.held, machine.resident
        after = ask(balloon, "stats")
        ask(balloon, "size 0")
        machine.wait_until(lambda: ask(balloon, "size")["actual"] == 0, "the balloon is empty")
        deflated = ask(balloon, "stats")
        machine.go_on()
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
    assert abs(int(result.value("RTC")) - host_time) < 120
    assert abs(int(result.value("TIME")) - host_time) < 120
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
    devices = as_arguments(["balloon", "pvpanic"])
    with running(tmp_path, script, "--memory", "256M", *devices, flavour="amd64") as machine:
        machine.wait_for("STATE=full")
        full, full_resident = machine.held, machine.resident
        machine.go_on()
        machine.wait_for("STATE=emptied")
        machine.wait_until(lambda: full - machine.held > 60 * MIB, "free pages that are reported")
        emptied_resident = machine.resident
        machine.go_on()
        result = machine.finish()

    assert full_resident - emptied_resident > 60 * MIB
    assert result.status == 3
    assert "pyvmm: the guest crashed: its kernel panicked, says pvpanic0" in result.errors
    assert "sysrq triggered crash" in result.output

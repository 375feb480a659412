"""``pyvmm serve`` as a process, and QEMU as the machine whose devices it serves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from pyvmm.testing.waiting import PATIENCE, wait_until

from tests.guest import artefacts
from tests.system.prepared import TOP

PYVMM = TOP / ".venv/bin/pyvmm"
SILENCE = 600
"""Seconds after which a machine that says nothing hangs. An emulated one takes long, and longer on a busy host."""


class Served:
    """``pyvmm serve``, from the moment when it listens."""

    def __init__(self, device: str, path: Path) -> None:
        self.device = device
        self.path = path
        self._log = tempfile.TemporaryFile()
        self.start()

    def start(self) -> None:
        """Start the process, again if it has ended."""
        command = [str(PYVMM), "serve", self.device, "--socket", str(self.path), "-v"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=self._log)
        wait_until(lambda: self._listens() or self.process.poll() is not None)
        if self.process.poll() is not None:
            self._end()
            raise AssertionError(f"pyvmm serve {self.device} does not listen: {self.errors}")

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(self.path))
            return True
        return False

    def kill(self) -> None:
        """SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self._end()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        self._end()
        return self.process.returncode

    @property
    def errors(self) -> str:
        """What it has said on stderr until now, each time that it was started."""
        if self._log.closed:
            return self._last_words
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def _end(self) -> None:
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Served:
        return self

    def __exit__(
        self, exception: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._log:
            if self.process.poll() is None:
                self.stop()
            self._last_words = self.errors
            print(self._last_words)  # pytest shows it where a test fails


class Qemu:
    """A machine of Debian's QEMU, emulated, that runs a script in a Debian kernel and ends."""

    def __init__(
        self,
        scratch: Path,
        script: str,
        *arguments: str,
        tools: Sequence[str] = (),
        memory: str = "512M",
        flavour: str = "cloud",
        cmdline: str = "quiet",
        reboots: bool = False,
    ) -> None:
        """``reboots``: when the guest does, it boots again."""
        guest = artefacts.ensure(flavour)
        append = [artefacts.tools(*tools)] if tools else []
        initrd = artefacts.with_script(guest.initramfs, script, scratch / "initrd", append=append)
        self._qmp_path = scratch / "qmp.sock"
        command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", memory, "-nodefaults"]
        command += [] if reboots else ["-no-reboot"]
        command += ["-machine", "q35,memory-backend=ram"]
        command += ["-object", f"memory-backend-memfd,id=ram,size={memory},share=on"]
        command += ["-display", "none", "-serial", "stdio", "-qmp", f"unix:{self._qmp_path},server=on,wait=off"]
        command += ["-kernel", str(guest.vmlinuz), "-initrd", str(initrd), "-append", f"console=ttyS0 {cmdline}"]
        self.output = ""
        """What the guest said on its console."""
        self._errors = (scratch / "qemu.log").open("w+b")
        self.process = subprocess.Popen(
            [*command, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors
        )

    def wait_for(self, text: str) -> None:
        """Read the console up to ``text``."""
        while text not in self.output:
            assert self._read(), f"the guest does not say {text!r}: {self.describe()}"

    def has_said(self, text: str) -> bool:
        """Whether ``text`` is on the console by now."""
        assert self.process.stdout is not None
        while select.select([self.process.stdout], [], [], 0)[0] and self._read():
            pass
        return text in self.output

    def wait(self) -> Qemu:
        """Read the console to its end; the script must have ended well."""
        while self._read():
            pass
        assert "PYVMM-SCRIPT-EXIT 0" in self.output, self.describe()
        assert self.process.wait(PATIENCE) == 0, self.describe()
        return self

    def value(self, name: str) -> str:
        """What the guest's script printed as ``NAME=value``."""
        found = re.search(rf"^{re.escape(name)}=(.*?)\r?$", self.output, re.MULTILINE)
        assert found, f"the guest did not say {name}: {self.describe()}"
        return found[1]

    def command(self, *names: str) -> None:
        """Carry out commands of QEMU's monitor (QMP), such as ``stop`` and ``cont``."""
        with socket.socket(socket.AF_UNIX) as qmp:
            qmp.settimeout(PATIENCE)
            qmp.connect(str(self._qmp_path))
            with qmp.makefile("r") as answers:
                answers.readline()
                for name in ("qmp_capabilities", *names):
                    qmp.sendall(json.dumps({"execute": name}).encode())
                    while "return" not in (answer := json.loads(answers.readline())):
                        assert "error" not in answer, answer

    def describe(self) -> str:
        """What was said, for messages."""
        self._errors.seek(0)
        return f"{self.output[-4000:]}\n{self._errors.read().decode(errors='replace')}"

    def _read(self) -> bool:
        """Read what there is; whether there may be more."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], SILENCE)[0]:
            raise AssertionError(f"the machine has said nothing for {SILENCE} s: {self.describe()}")
        data = os.read(self.process.stdout.fileno(), 65536)
        self.output += data.decode(errors="replace")
        return bool(data)

    def __enter__(self) -> Qemu:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()


def disk_arguments(path: Path, *, reconnect: bool = False) -> list[str]:
    """QEMU's arguments for a disk that is served at ``path``."""
    again = ",reconnect=1" if reconnect else ""
    return [
        *("-chardev", f"socket,id=disk,path={path}{again}"),
        *("-device", "vhost-user-blk-pci,chardev=disk,num-queues=1"),
    ]


def net_arguments(path: Path) -> list[str]:
    """QEMU's arguments for a network card that is served at ``path``."""
    # Without KVM, QEMU up to 7.2 at least dies of a vhost-user network card with MSI-X: it takes the interrupt for
    # an irqfd of KVM's when the guest unmasks it.
    return [
        *("-chardev", f"socket,id=net,path={path}"),
        *("-netdev", "vhost-user,id=net0,chardev=net"),
        *("-device", "virtio-net-pci,netdev=net0,romfile=,vectors=0"),
    ]


def rng_arguments(path: Path) -> list[str]:
    """QEMU's arguments for an entropy device that is served at ``path``."""
    return ["-chardev", f"socket,id=rng,path={path}", "-device", "vhost-user-rng-pci,chardev=rng"]


def vsock_arguments(path: Path) -> list[str]:
    """QEMU's arguments for a socket device that is served at ``path``."""
    return ["-chardev", f"socket,id=vsock,path={path}", "-device", "vhost-user-vsock-pci,chardev=vsock"]


@contextlib.contextmanager
def iperf_server(address: str) -> Iterator[None]:
    """An iperf3 that guests can reach."""
    server = subprocess.Popen(["iperf3", "-s", "-B", address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        server.kill()
        server.wait()

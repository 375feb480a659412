"""A virtio console and sockets between host and guest, with Debian's own drivers."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import re
import select
import shutil
import socket
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.boot.booting import PYVMM, SILENCE, boot
from tests.guest import artefacts

SIZE = 2 << 20
STREAMS = 3
ECHO = shutil.which("tee") or "tee"
"""What sends back what it gets; the guest's own cat is outside of what its tools see."""

SCRIPT = f"""
digest() {{ sha256sum | cut -d' ' -f1; }}

# The console, both ways. What is typed before it is raw would be edited.
exec 3<>/dev/hvc0 && stty raw -echo <&3 || exit 1
echo ready >&3
echo INPUT=$(head -c 20000 <&3 | digest)
head -c 200000 /dev/urandom >/tmp/text
echo OUTPUT=$(digest </tmp/text)
cat /tmp/text >&3

# Sockets: whatever the host sends comes back to it, on three streams at once, until it says that it has had enough.
socat -u VSOCK-CONNECT:2:2000 - >/tmp/said &
said=$!
socat -t 300 VSOCK-LISTEN:52,fork,reuseaddr EXEC:"{ECHO}" &
wait $said || exit 2
echo SAID=$(cat /tmp/said)

# And three to the host at once. It answers when it has seen the end of what it is sent.
for i in {" ".join(map(str, range(STREAMS)))}; do
    head -c {SIZE} /dev/urandom >/tmp/up$i
done
for i in {" ".join(map(str, range(STREAMS)))}; do
    socat -t 300 - VSOCK-CONNECT:2:$((1000 + i)) </tmp/up$i >/tmp/down$i &
    streams="$streams $!"
done
for stream in $streams; do wait $stream || exit 3; done
for i in {" ".join(map(str, range(STREAMS)))}; do
    echo UP$i=$(digest </tmp/up$i)
    echo DOWN$i=$(digest </tmp/down$i)
done
socat - VSOCK-CONNECT:2:4242 </dev/null 2>/tmp/refused && exit 4
echo REFUSED=$(grep -c 'reset' /tmp/refused)
"""


def test_console_and_sockets_carry_data_both_ways(tmp_path: Path) -> None:
    host = Host(tmp_path)

    result = boot(
        tmp_path,
        SCRIPT,
        *("--device", f"console:unix={host.console_path}"),
        *("--device", f"vsock:{host.vsock_path},cid=52"),
        tools=["socat", "tee"],
    )
    result.assert_passed()
    host.join()
    assert result.value("INPUT") == digest(host.typed)
    assert result.value("OUTPUT") == digest(host.output)
    assert result.value("SAID") == "enough"
    assert {index: digest(data) for index, data in host.echoes.items()} == {
        index: digest(text(100 + index)) for index in range(STREAMS)
    }
    for index in range(STREAMS):
        assert result.value(f"UP{index}") == digest(host.uploads[index])
        assert result.value(f"DOWN{index}") == digest(text(index))
    assert result.value("REFUSED") == "1"
    assert not host.vsock_path.exists() and not host.console_path.exists()


class Host:
    """The programs of the host, each on a thread."""

    def __init__(self, directory: Path) -> None:
        self.console_path = directory / "console.sock"
        self.vsock_path = directory / "vsock.sock"
        self.typed = text(1000)[:20000]
        self.output = b""
        self.uploads: dict[int, bytes] = {}
        self.echoes: dict[int, bytes] = {}
        self._deadline = time.monotonic() + 3 * SILENCE  # for the boot and for all that is sent
        self._finish = self._listen(2000)
        self._threads: list[threading.Thread] = []
        self._run(self._use_console)
        for index in range(STREAMS):
            listener = self._listen(1000 + index)
            self._run(lambda index=index, listener=listener: self._answer(index, listener))  # type: ignore[misc]
        echoes = [self._run(lambda index=index: self._send(index)) for index in range(STREAMS)]  # type: ignore[misc]
        self._run(lambda: self._say_when_done(echoes))

    def join(self) -> None:
        for thread in self._threads:
            thread.join(SILENCE)
            assert not thread.is_alive(), "a program of the host still waits"

    def _run(self, function: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=function, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{self.vsock_path}_{port}")
        listener.listen()
        listener.settimeout(SILENCE)
        return listener

    def _connect(self, path: Path) -> socket.socket:
        """A client of the socket at ``path``, as soon as there is one."""
        while True:
            client = socket.socket(socket.AF_UNIX)
            try:
                client.connect(str(path))
                return client
            except OSError:
                client.close()
                assert time.monotonic() < self._deadline
                time.sleep(0.1)

    def _use_console(self) -> None:
        with self._connect(self.console_path) as client:
            assert client.recv(6, socket.MSG_WAITALL) == b"ready\n"
            client.sendall(self.typed)
            while len(self.output) < 200_000 and (data := client.recv(1 << 16)):
                self.output += data

    def _answer(self, index: int, listener: socket.socket) -> None:
        client, _ = listener.accept()
        with listener, client, client.makefile("rb") as file:
            self.uploads[index] = file.read()
            client.sendall(text(index))

    def _send(self, index: int) -> None:
        """Send to the guest's port 52, which sends it back, until somebody listens there."""
        while time.monotonic() < self._deadline:
            with self._connect(self.vsock_path) as client, client.makefile("rb") as file:
                client.sendall(b"CONNECT 52\n")
                if not file.readline().startswith(b"OK "):
                    time.sleep(0.1)
                    continue
                sender = self._run(lambda client=client: self._send_all(client, text(100 + index)))  # type: ignore[misc]
                self.echoes[index] = file.read()
                sender.join()
                return

    @staticmethod
    def _send_all(client: socket.socket, data: bytes) -> None:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    def _say_when_done(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.join()
        client, _ = self._finish.accept()
        with self._finish, client:
            client.sendall(b"enough")


def text(seed: int) -> bytes:
    return random.Random(seed).randbytes(SIZE)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


SIZES = """
echo CONSOLES=$(cut -d' ' -f1 /proc/consoles | tr '\\n' ,)
echo COMMAND_LINE=$(cat /proc/cmdline)
exec 3<>/dev/hvc0
stty raw -echo <&3
echo the guest is up >&3
i=0
until stty size <&3 2>/dev/null | grep '^[1-9]' >/tmp/size; do i=$((i + 1)); [ $i -lt 6000 ] || exit 1; sleep 0.1; done
echo SIZE=$(cat /tmp/size)
echo the guest is ready >&3
i=0
while [ "$(stty size <&3)" != "50 132" ]; do i=$((i + 1)); [ $i -lt 6000 ] || exit 1; sleep 0.1; done
echo RESIZED=$(stty size <&3)
echo "<1>the kernel says so" >/dev/kmsg
echo KEYS=$(head -c 3 <&3 | od -An -tx1)
"""


def test_console_is_the_kernels_and_as_large_as_the_terminal(tmp_path: Path) -> None:
    guest = artefacts.ensure("cloud")
    initrd = artefacts.with_script(guest.initramfs, SIZES, tmp_path / "initrd")
    master, slave = os.openpty()
    resize(slave, 80, 24)

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [
            *(str(PYVMM), "--kernel", str(guest.vmlinuz), "--initrd", str(initrd)),
            *("--device", f"serial:file={tmp_path / 'serial'}", "--device", "console:stdio,kernel"),
        ],
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
        preexec_fn=take_terminal,
        pass_fds=[slave],
    )
    try:
        screen = expect(master, b"the guest is ready", b"")
        resize(slave, 132, 50)
        os.write(master, b"\x03\x01\x01z")
        while process.poll() is None:
            screen = expect(master, b"", screen)
    finally:
        process.kill()
        _, errors = process.communicate()
        os.close(master)
        os.close(slave)

    said = (tmp_path / "serial").read_text(errors="replace")
    assert process.returncode == 0, errors
    assert "PYVMM-SCRIPT-EXIT 0" in said, said[-4000:]
    values = dict(re.findall(r"^([A-Z]+)= ?(.*?)\r*$", said, re.MULTILINE))
    assert (values["SIZE"], values["RESIZED"], values["KEYS"]) == ("24 80", "50 132", "03 01 7a")
    assert "CONSOLES=hvc0," in said and "console=ttyS0" in said and "console=hvc0" in said
    assert b"the kernel says so" in screen


def resize(terminal: int, columns: int, rows: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("<HHHH", rows, columns, 0, 0))


def expect(master: int, what: bytes, screen: bytes) -> bytes:
    """Read until ``what`` is on the screen, or once."""
    end = time.monotonic() + SILENCE
    while True:
        if select.select([master], [], [], 0.2)[0]:
            screen += os.read(master, 65536)
        if what in screen:
            return screen
        assert time.monotonic() < end, screen[-1000:]

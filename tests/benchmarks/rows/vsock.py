"""Sockets between host and guest under Debian's kernel: ours in user space, QEMU's by the kernel's vhost-vsock."""

from __future__ import annotations

import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.benchmarks.clients import PATIENCE, echo, receive, until_done
from tests.benchmarks.harness import Bench, Contender, Metric
from tests.benchmarks.linux_guest import LinuxGuest, linux_guest
from tests.benchmarks.machines import Vmm
from tests.benchmarks.pyvmm_command import PyVmm
from tests.benchmarks.qemu import Qemu
from tests.benchmarks.rows import Row

CID = 1952
ECHOES = 100
MIB = 32

_ECHO, _TAKE, _GIVE = 52, 53, 54  # ports

_SCRIPT = f"""
socat VSOCK-LISTEN:{_ECHO} PIPE || exit 1
socat -u -b 65536 VSOCK-LISTEN:{_TAKE} OPEN:/dev/null || exit 2
socat -u -b 65536 OPEN:/dev/zero,readbytes={MIB << 20} VSOCK-CONNECT:2:{_GIVE} || exit 3
"""


@dataclass(frozen=True)
class _Host:
    """How the host's programs reach the guest, and are reached."""

    connect: Callable[[int], socket.socket]
    listen: Callable[[int], socket.socket]


def measure(bench: Bench) -> None:
    """One stream at a time."""
    with tempfile.TemporaryDirectory() as scratch, linux_guest(_SCRIPT, tools=["socat"]) as guest:
        path = Path(scratch, "vsock")
        ours = PyVmm(devices=(f"vsock:{path}",))
        contenders: dict[str, Contender] = {
            ours.name: partial(_measure, ours, guest, _Host(partial(_connect, path), partial(_listen, path)))
        }
        if os.path.exists("/dev/vhost-vsock"):
            qemu = Qemu(linux=True, options=("-device", f"vhost-vsock-device,guest-cid={CID}"))
            contenders[qemu.name] = partial(_measure, qemu, guest, _Host(_connect_by_kernel, _listen_by_kernel))
        else:
            bench.note("vsock: no figures for QEMU: there is no /dev/vhost-vsock")
        bench.alternate(contenders, runs=3)


def _measure(vmm: Vmm, guest: LinuxGuest, host: _Host) -> dict[Metric, float]:
    with host.listen(_GIVE) as listener, guest.run(vmm):
        listener.settimeout(PATIENCE)
        with until_done(lambda: host.connect(_ECHO)) as client:
            echoes = [echo(client) for _ in range(ECHOES)]
        with until_done(lambda: host.connect(_TAKE)) as client:
            start = time.monotonic()
            client.sendall(bytes(MIB << 20))
            client.shutdown(socket.SHUT_WR)
            while client.recv(1):  # the guest closes when it has everything
                pass
            to_guest = time.monotonic() - start
        with listener.accept()[0] as client:
            client.settimeout(PATIENCE)
            start = time.monotonic()
            receive(client, MIB << 20)
            from_guest = time.monotonic() - start
    return {
        Metric("a byte echoed, half within", "ms", lower_is_better=True): 1000 * statistics.median(echoes),
        Metric("to the guest", "MiB/s"): MIB / to_guest,
        Metric("from the guest", "MiB/s"): MIB / from_guest,
    }


def _connect(path: Path, port: int) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    try:
        client.settimeout(PATIENCE)
        client.connect(str(path))
        client.sendall(b"CONNECT %d\n" % port)
        answer = b""
        while not answer.endswith(b"\n"):
            part = client.recv(1)
            if not part:
                raise ConnectionResetError(f"nobody listens at the guest's port {port}")
            answer += part
    except OSError:
        client.close()
        raise
    return client


def _listen(path: Path, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    name = Path(f"{path}_{port}")
    name.unlink(missing_ok=True)
    listener.bind(str(name))
    listener.listen()
    return listener


def _connect_by_kernel(port: int) -> socket.socket:
    client = socket.socket(socket.AF_VSOCK)
    try:
        client.connect((CID, port))
    except OSError:
        client.close()
        raise
    return client


def _listen_by_kernel(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_VSOCK)
    listener.bind((socket.VMADDR_CID_ANY, port))
    listener.listen()
    return listener


ROW = Row("vsock", "sockets between host and guest under Debian's kernel, QEMU's by vhost", measure, linux=True)

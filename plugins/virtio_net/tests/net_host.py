"""The host's side of a network card for tests: a namespace of its own and raw sockets on the tap."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000
SOL_PACKET, PACKET_VNET_HDR = 263, 15
ETH_P_ALL = 3
ETH_P_TEST = 0x88B5  # for local experiments (IEEE 802)
_libc = ctypes.CDLL(None, use_errno=True)


def why_no_taps() -> str:
    """The reason why tests cannot make taps here; empty if they can."""
    if os.geteuid():
        return "needs root, to make taps in a network namespace"
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun"
    return ""


@contextmanager
def new_namespace() -> Iterator[None]:
    """Move this thread into a new, empty network namespace, and back at the end, when the namespace is removed."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            # Nothing but the test's own frames on the tap.
            for what in ("all", "default"):
                with open(f"/proc/sys/net/ipv6/conf/{what}/disable_ipv6", "w") as file:
                    file.write("1")
            yield
        finally:
            if _libc.setns(before, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(before)


def ip(command: str) -> str:
    """Run ``ip COMMAND`` in the present namespace."""
    return subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True).stdout


class Wire:
    """A raw socket on an interface: sends and gets frames as the host's own stack would, header and all."""

    def __init__(self, interface: str) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self.socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.bind((interface, ETH_P_ALL))

    def send(self, frame: bytes, header: bytes = bytes(10)) -> None:
        """Send towards the guest."""
        self.socket.send(header + frame)

    def receive(self) -> list[tuple[bytes, bytes]]:
        """(header, frame) of all that the guest has sent."""
        frames = []
        while True:
            try:
                data, _, _, address = self.socket.recvmsg(1 << 17)
            except BlockingIOError:
                return frames
            except OSError:
                continue  # a frame whose offloads have no header
            if address[2] != socket.PACKET_OUTGOING:
                frames.append((data[:10], data[10:]))

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

"""A network namespace of this process's own, with one tap in it: nothing else of the host is seen or disturbed."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.harness import BenchError

HOST: Final = "192.168.126.1"
GUEST: Final = "192.168.126.2"
GUEST_MAC: Final = "52:54:00:12:34:56"

_CLONE_NEWNET: Final = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Tap:
    """A tap that is up, with an address."""

    name: str


@contextmanager
def tap() -> Iterator[Tap]:
    """Go into a new namespace, with what is started meanwhile, and come back at the end. Needs root."""
    before = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(_CLONE_NEWNET):
            raise BenchError(f"a network namespace of its own: {os.strerror(ctypes.get_errno())}")
        try:
            _ip("link", "set", "lo", "up")
            _ip("tuntap", "add", "dev", "bench0", "mode", "tap", "vnet_hdr")
            # The host says nothing by itself: no router solicitations, no question who has the guest's address.
            with open("/proc/sys/net/ipv6/conf/bench0/disable_ipv6", "w") as file:
                file.write("1")
            _ip("address", "add", f"{HOST}/30", "dev", "bench0")
            _ip("link", "set", "bench0", "up")
            _ip("neighbour", "add", GUEST, "lladdr", GUEST_MAC, "dev", "bench0", "nud", "permanent")
            yield Tap("bench0")
        finally:
            _libc.setns(before, _CLONE_NEWNET)
    finally:
        os.close(before)


def _ip(*arguments: str) -> None:
    try:
        result = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BenchError("ip is not installed (tests/system/require guest)") from error
    if result.returncode != 0:
        raise BenchError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")

"""A tap interface with an address, for one guest; needs root."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_COUNT = 63
_LOCKS = Path("/run")


@dataclass(frozen=True)
class Tap:
    name: str
    """Of the interface."""
    host: str
    """The address that the host's end has."""
    guest: str
    """The address meant for the guest."""
    prefix: int
    """Bits of the network."""


class TapError(Exception):
    """The tap cannot be made; the message is one line for the user."""


@contextmanager
def tap(*, vnet_hdr: bool = False, multi_queue: bool = False) -> Iterator[Tap]:
    """Make ``pyvmm0``, or the next free one, up and with an address; remove it at the end.

    Several callers get different ones. One that a killed caller left is taken over.
    """
    if os.geteuid() != 0:
        raise TapError("a tap interface is needed, and only root can make one: try sudo")
    for number in range(_COUNT):
        lock = os.open(_LOCKS / f"pyvmm-tap{number}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        try:
            made = _make(number, ["vnet_hdr"] * vnet_hdr + ["multi_queue"] * multi_queue)
            try:
                yield made
            finally:
                _ip("link", "delete", made.name, check=False)
        finally:
            os.close(lock)
        return
    raise TapError(f"all {_COUNT} taps pyvmm0… are in use")


def _make(number: int, options: list[str]) -> Tap:
    # A network of four addresses each: our taps do not meet.
    base = 4 * number
    made = Tap(f"pyvmm{number}", f"192.168.127.{base + 1}", f"192.168.127.{base + 2}", 30)
    _ip("link", "delete", made.name, check=False)
    _ip("tuntap", "add", "dev", made.name, "mode", "tap", *options)
    # No router solicitations and such: a test counts its own packets.
    conf = Path("/proc/sys/net/ipv6/conf", made.name, "disable_ipv6")
    if conf.exists():
        conf.write_text("1")
    _ip("address", "add", f"{made.host}/{made.prefix}", "dev", made.name)
    _ip("link", "set", made.name, "up")
    return made


def _ip(*arguments: str, check: bool = True) -> None:
    try:
        result = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise TapError("ip is not installed (tests/system/require guest)") from error
    if check and result.returncode != 0:
        raise TapError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")

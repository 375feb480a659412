"""A guest's steps to test passt: DHCP, a connection to the host's loopback, and one back by a port of the host."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager

from tests.guest.tap import Tap

PORT = 80
"""What the guest listens on."""

# What listens is up before the host is told, and the host tells what it got there. It is the host that ends both
# connections: Debian 12's passt may lose the end of one that its guest has half closed.
_SCRIPT = """
cat >/tmp/lease <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface && ip route add default via $router && echo $router >/tmp/router
END
chmod +x /tmp/lease
ip link set $DEVICE up && udhcpc -i $DEVICE -n -q -t 20 -s /tmp/lease >/dev/null 2>&1 || exit 4
mkfifo /tmp/to-caller /tmp/to-host
nc -l -p 80 </tmp/to-caller >/tmp/got &
exec 3>/tmp/to-caller
echo to the host >&3
until grep -q ':0050 0*:0000 0A' /proc/net/tcp /proc/net/tcp6; do :; done
nc $(cat /tmp/router) $PORT </tmp/to-host >/tmp/reply &
exec 4>/tmp/to-host
echo ready >&4
wait
echo FORWARDED=$(cat /tmp/got)
echo REPLY=$(cat /tmp/reply)
"""


@contextmanager
def way_out(interface: Tap) -> Iterator[None]:
    """A default route, for passt, which gives its guest the address that goes with it; the host's, if there is one."""
    if subprocess.check_output(["ip", "-4", "route", "show", "default"]):
        yield
        return
    route = ["default", "via", interface.guest, "dev", interface.name]
    subprocess.run(["ip", "route", "add", *route], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "route", "delete", *route], check=False)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def script(device: str, port: int) -> str:
    """Of a guest whose card is ``device``; the host listens on its loopback's ``port``."""
    return f"DEVICE={device} PORT={port}\n{_SCRIPT}"


@contextmanager
def host(forwarded: int, timeout: float) -> Iterator[tuple[int, Future[str]]]:
    """What the guest meets: the port of the host's loopback where it is waited for, and what it says in the end.

    ``forwarded`` is the host's port that leads to it. At the end of the block nobody waits any more for a guest that
    never came; one that is there has up to ``timeout`` seconds for each word.
    """
    with closing(socket.create_server(("127.0.0.1", 0))) as server, ThreadPoolExecutor(1) as executor:
        met = executor.submit(_meet, server, forwarded, timeout)
        try:
            yield server.getsockname()[1], met
        finally:
            server.shutdown(socket.SHUT_RDWR)


def _meet(server: socket.socket, forwarded: int, timeout: float) -> str:
    """Wait for the guest, call it back by the port that leads to it, and tell it what it said there."""
    server.settimeout(timeout)
    connection, _ = server.accept()
    with closing(connection), closing(socket.create_connection(("127.0.0.1", forwarded), timeout=timeout)) as call:
        connection.settimeout(timeout)
        assert connection.makefile("rb").readline() == b"ready\n"
        call.sendall(b"from the host\n")
        said = call.makefile("rb").readline()
        connection.sendall(b"it said: " + said)
        return said.decode()

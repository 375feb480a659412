"""Debian's kernel on all that its network can be: a tap, a tap by vhost-net with a queue for each CPU, passt."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.boot.booting import SILENCE, boot
from tests.guest import passt
from tests.guest.tap import tap

# Counted in bytes: how fast an emulated machine is says nothing.
TCP = """
ip link set $DEVICE up && ip addr add $ADDRESS dev $DEVICE || exit 1
iperf3 -c $HOST $AMOUNT -P $STREAMS -J >/tmp/up || { cat /tmp/up; exit 2; }
iperf3 -c $HOST $AMOUNT -P $STREAMS -R -J >/tmp/down || { cat /tmp/down; exit 3; }
echo $DEVICE-UP=$(field /tmp/up sum_received bytes)
echo $DEVICE-DOWN=$(field /tmp/down sum_received bytes)
echo $DEVICE-UP-AGAIN=$(field /tmp/up sum_sent retransmits)
echo $DEVICE-DOWN-AGAIN=$(field /tmp/down sum_sent retransmits)
"""

FIELD = """
field() { grep -A12 "\\"$2\\"" $1 | grep "\\"$3\\"" | head -1 | tr -dc '0-9'; }
"""

QUEUES = """
echo QUEUES=$(ls /sys/class/net/eth1/queues | tr '\\n' ' ')
"""


@contextmanager
def iperf_server(address: str) -> Iterator[None]:
    server = subprocess.Popen(
        ["iperf3", "--server", "--bind", address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def test_tcp_over_a_tap_over_vhost_with_two_queues_and_over_passt(tmp_path: Path) -> None:
    if not shutil.which("passt"):
        pytest.fail("needs passt: tests/system/require test")
    vhost = "on" if os.path.exists("/dev/vhost-net") else "auto"
    forwarded = passt.free_port()
    with (
        tap() as plain,
        tap(multi_queue=True) as queues,
        tap() as outside,
        passt.way_out(outside),
        iperf_server(plain.host),
        iperf_server(queues.host),
        passt.host(forwarded, SILENCE) as (port, met),
    ):
        script = passt.script("eth2", port) + FIELD + QUEUES
        for device, interface, streams in (("eth0", plain, 1), ("eth1", queues, 4)):
            script += f"DEVICE={device} ADDRESS={interface.guest}/{interface.prefix} HOST={interface.host}\n"
            script += f"STREAMS={streams} AMOUNT='-n 2M'\n" + TCP
        result = boot(
            tmp_path,
            script,
            *("-v", "--cpus", "2"),
            *("--device", f"net:{plain.name},vhost=off"),
            *("--device", f"net:{queues.name},vhost={vhost},queues=2"),
            *("--device", f"net:user,tcp=127.0.0.1/{forwarded}:80"),
            tools=["iperf3"],
        )

    result.assert_passed()
    assert met.result() == "to the host\n"
    assert result.value("FORWARDED") == "from the host"
    assert result.value("REPLY") == "it said: to the host"
    assert result.value("QUEUES").split() == ["rx-0", "rx-1", "tx-0", "tx-1"]
    assert f"tap {plain.name}: frames are moved by this process" in result.errors
    if vhost == "on":
        assert f"tap {queues.name}: frames are moved by the kernel, by vhost-net" in result.errors
    for device in ("eth0", "eth1"):
        assert int(result.value(f"{device}-UP")) >= 1 << 20  # its receiver counts until the sender is done
        assert int(result.value(f"{device}-DOWN")) >= 1 << 20
        assert int(result.value(f"{device}-UP-AGAIN")) < 100


@pytest.mark.parametrize("vhost", ["off", "on"])
def test_tcp_sends_little_again(tmp_path: Path, vhost: str, soak: int, capsys: pytest.CaptureFixture[str]) -> None:
    """In each direction for a while, with frames that this process moves and that the kernel does."""
    with tap() as interface, iperf_server(interface.host):
        script = f"{FIELD}DEVICE=eth0 ADDRESS={interface.guest}/{interface.prefix} HOST={interface.host}\n"
        script += f"STREAMS=1 AMOUNT='-t {soak}'\n{TCP}"
        arguments = ["-v", "--device", f"net:{interface.name},vhost={vhost}"]
        result = boot(tmp_path, script, *arguments, tools=["iperf3"])

    result.assert_passed()
    for direction in ("UP", "DOWN"):
        size, again = int(result.value(f"eth0-{direction}")), int(result.value(f"eth0-{direction}-AGAIN"))
        with capsys.disabled():
            print(f"vhost={vhost}, {direction}: {size >> 20} MiB in {soak} s, {again} segments sent again")
        assert size > soak << 16
        assert again * 1448 < size // 100

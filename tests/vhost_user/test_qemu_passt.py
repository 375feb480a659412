"""Our card on passt in a machine of QEMU's: Debian's kernel gets an address, reaches the host, and is reached."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.guest import passt
from tests.guest.tap import tap
from tests.vhost_user.served import SILENCE, Qemu, Served, net_arguments

pytestmark = [
    pytest.mark.skipif(not shutil.which("passt"), reason="needs passt (tests/system/require test)"),
    pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="QEMU is not installed"),
]


def test_tcp_both_ways(tmp_path: Path) -> None:
    forwarded = passt.free_port()
    with tap() as outside, passt.way_out(outside), passt.host(forwarded, SILENCE) as (port, met):
        with (
            Served(f"net:user,tcp=127.0.0.1/{forwarded}:{passt.PORT}", tmp_path / "net.sock") as served,
            Qemu(tmp_path, passt.script("eth0", port), *net_arguments(served.path)) as machine,
        ):
            machine.wait()

        assert met.result() == "to the host\n"
        assert machine.value("FORWARDED") == "from the host"
        assert machine.value("REPLY") == "it said: to the host"

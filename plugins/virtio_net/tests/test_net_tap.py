"""Opening a tap, and what is said where that fails."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
from net_host import ip
from pyvmm.errors import PyvmmError
from pyvmm_virtio_net import tap as tap_module
from pyvmm_virtio_net.tap import Tap

OPEN_TAP = """
import sys
from pyvmm.errors import PyvmmError
from pyvmm_virtio_net.tap import Tap
try:
    Tap(sys.argv[1]).close()
except PyvmmError as error:
    print(error)
"""


def open_without_privilege(name: str, *options: str) -> str:
    """Open a tap in a process without CAP_NET_ADMIN; what it says."""
    command = ["setpriv", "--inh-caps=-net_admin", "--bounding-set=-net_admin", *options]
    command += [sys.executable, "-c", OPEN_TAP, name]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def refusal(name: str, status: int = 2) -> str:
    with pytest.raises(PyvmmError) as caught:
        Tap(name)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == status
    return str(caught.value)


def test_tap_is_made_brought_up_and_goes(namespace: None) -> None:
    tap = Tap("tap0", mtu=2000)

    assert tap.made and tap.was_up and tap.has_link() and tap.mtu == 2000
    assert "mtu 2000" in ip("link show tap0")
    tap.close()
    assert "tap0" not in ip("link show")


def test_existing_tap_stays(namespace: None) -> None:
    ip("tuntap add dev tap0 mode tap")

    for _ in range(2):
        tap = Tap("tap0")
        assert not tap.made and not tap.was_up
        tap.close()

    assert "tap0" in ip("link show")


def test_existing_tap_with_many_queues(namespace: None) -> None:
    ip("tuntap add dev tap0 mode tap multi_queue")

    Tap("tap0").close()


def test_tap_that_is_in_use(namespace: None) -> None:
    first = Tap("tap0")

    assert refusal("tap0") == "net: tap tap0 is in use, perhaps by another machine; give another tap"
    first.close()
    Tap("tap0").close()


def test_interface_that_is_no_tap(namespace: None) -> None:
    ip("tuntap add dev tun0 mode tun")

    for name in ("lo", "tun0"):
        assert refusal(name).startswith(f"net: interface {name} is not a tap; give another name")


def test_tap_that_is_missing_and_may_not_be_made(namespace: None) -> None:
    assert open_without_privilege("tap0") == (
        "net: there is no tap tap0 and this user may not make one; make it with: "
        'sudo ip tuntap add dev tap0 mode tap user "$USER" && sudo ip link set tap0 up'
    )


def test_tap_of_another_user(namespace: None) -> None:
    ip("tuntap add dev tap0 mode tap user 12345")

    text = open_without_privilege("tap0")

    assert text.startswith("net: tap tap0 belongs to another user; run as root, or delete it and make it again: ")


def test_own_tap_needs_no_privilege(namespace: None) -> None:
    ip(f"tuntap add dev tap0 mode tap user {os.getuid()}")

    assert open_without_privilege("tap0") == ""


@pytest.mark.parametrize(
    ("number", "phrase"),
    [
        (errno.ENOENT, "No such file or directory; load the kernel's driver: sudo modprobe tun"),
        (errno.ENODEV, "No such device; load the kernel's driver: sudo modprobe tun"),
        (errno.EACCES, "Permission denied; allow this user to read and write it, or run as root"),
        (errno.EMFILE, "Too many open files"),
    ],
)
def test_no_tun(monkeypatch: pytest.MonkeyPatch, number: int, phrase: str) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tap_module.os, "open", refuse)

    assert refusal("tap0", status=1).startswith(f"net: cannot open /dev/net/tun: {phrase}")


def test_nothing_is_left_behind_by_a_failure(namespace: None) -> None:
    first = Tap("tap0")
    before = os.listdir("/proc/self/fd")

    refusal("tap0")
    refusal("lo")

    assert os.listdir("/proc/self/fd") == before
    first.close()


def test_tap_that_was_moved_away_is_taken_for_up(namespace: None) -> None:
    """A container's tap: opened here, then moved into another namespace."""
    tap = Tap("tap0")
    child = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; read line"], stdin=-1, stdout=-1)
    with child:
        assert child.stdout and child.stdin
        child.stdout.readline()
        ip(f"link set tap0 netns {child.pid}")
        assert tap.current_name() == "tap0"
        assert tap.has_link()
        child.stdin.write(b"\n")
    tap.close()

"""A card on passt: what a guest without anybody's privilege reaches, and how it is reached."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from net_frames import checksum
from net_guest import Card, Guest
from net_host import ip
from pyvmm.errors import HostError, UsageError
from pyvmm.testing.waiting import PATIENCE
from pyvmm_virtio_net import NetOptions, passt
from pyvmm_virtio_net import constants as net
from pyvmm_virtio_net.passt_card import UserNet

MERGE = [net.VIRTIO_NET_F_MRG_RXBUF]
STATUS = [net.VIRTIO_NET_F_STATUS]
HOST, GATEWAY = socket.inet_aton("192.0.2.2"), socket.inet_aton("192.0.2.1")
"""What the namespace's interface has, passt gives to the guest, and as what the guest sees the host."""

GUEST_MAC = bytes.fromhex("020000000001")
SYN, ACK, PSH = 2, 16, 8

Make = Callable[..., Guest]


@pytest.fixture
def make(namespace: None) -> Iterator[Make]:
    """Makes guests in a network that has a way out: passt wants one."""
    if not shutil.which("passt"):
        pytest.skip("needs passt (tests/system/require test)")
    ip("link set lo up")
    ip("tuntap add dev out mode tap")
    ip("address add 192.0.2.2/24 dev out")
    ip("link set out up")
    ip("route add default via 192.0.2.1")
    guests = []

    def make(**options: object) -> Guest:
        device = UserNet(NetOptions("user", mac=GUEST_MAC.hex(":"), **options))  # type: ignore[arg-type]
        guests.append(Guest(device, name="net0"))
        return guests[-1]

    yield make
    for guest in guests:
        guest.close()


class Station:
    """Just enough of a host's stack, over the card's rings."""

    def __init__(self, guest: Guest, features: list[int] = MERGE) -> None:
        self.guest = guest
        guest.start(features)
        self.card = Card(guest)
        self.frames: list[bytes] = []
        for _ in range(200):
            self.card.post(4096)
        guest.receiveq.kick()
        self.mac = b"\xff" * 6

    def send(self, ethertype: int, packet: bytes) -> None:
        self.card.send(bytes(12) + self.mac + GUEST_MAC + struct.pack(">H", ethertype) + packet)
        self.guest.transmitq.kick()
        self.guest.run()
        self.card.sent()

    def get(self, wanted: Callable[[bytes], bool]) -> bytes:
        """The next frame, without its header, that is wanted; the others are forgotten."""
        found: list[bytes] = []

        def look() -> bool:
            self.frames += (frame[12:] for frame in self.card.received())
            while self.frames and not found:
                if wanted(self.frames[0]):
                    found.append(self.frames[0])
                self.frames.pop(0)
            return bool(found)

        self.guest.run_until(look)
        return found[0]

    def arp(self) -> None:
        """Learn the gateway's address on the link."""
        self.send(0x0806, struct.pack(">HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, GUEST_MAC, HOST, bytes(6), GATEWAY))
        answer = self.get(lambda frame: frame[12:14] == b"\x08\x06" and frame[21] == 2)
        assert answer[28:32] == GATEWAY
        self.mac = answer[22:28]

    def tcp(self, ports: tuple[int, int], flags: int, seq: int, ack: int, data: bytes = b"") -> None:
        head = struct.pack(">HHIIBBHHH", *ports, seq, ack, 5 << 4, flags, 65535, 0, 0)
        pseudo = HOST + GATEWAY + struct.pack(">BBH", 0, 6, len(head) + len(data))
        head = head[:16] + struct.pack(">H", ~checksum(pseudo + head + data) & 0xFFFF) + head[18:]
        packet = struct.pack(">BBHHHBBH", 0x45, 0, 40 + len(data), 1, 0, 64, 6, 0) + HOST + GATEWAY
        packet = packet[:10] + struct.pack(">H", ~checksum(packet) & 0xFFFF) + packet[12:]
        self.send(0x0800, packet + head + data)

    def get_tcp(self, port: int, flags: int) -> tuple[int, int, int, bytes]:
        """The next segment to ``port`` that has all of ``flags``: its source port, seq, ack and data."""

        def wanted(frame: bytes) -> bool:
            tcp = frame[34:]
            return (
                frame[12:14] == b"\x08\0"
                and frame[23] == 6
                and tcp[2:4] == struct.pack(">H", port)
                and (tcp[13] & flags == flags)
            )

        frame = self.get(wanted)
        end = 14 + int.from_bytes(frame[16:18], "big")
        tcp = frame[34:end]
        source, _, seq, ack, offset = struct.unpack(">HHIIB", tcp[:13])
        return source, seq, ack, tcp[(offset >> 4) * 4 :]


def test_guest_connects_to_the_hosts_loopback_and_data_goes_both_ways(make: Make) -> None:
    station = Station(make())
    station.arp()
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        ports = (40000, server.getsockname()[1])
        station.tcp(ports, SYN, 100, 0)
        _, seq, ack, _ = station.get_tcp(40000, SYN | ACK)
        assert ack == 101
        station.tcp(ports, ACK, 101, seq + 1)
        server.settimeout(PATIENCE)
        connection = server.accept()[0]
        with closing(connection):
            station.tcp(ports, ACK | PSH, 101, seq + 1, b"from the guest")
            connection.settimeout(PATIENCE)
            assert connection.recv(100) == b"from the guest"
            sent = bytes(range(256)) * 200
            connection.sendall(sent)
            got = b""
            while len(got) < len(sent):
                _, at, _, data = station.get_tcp(40000, ACK)
                if at == seq + 1 + len(got):
                    got += data
                    station.tcp(ports, ACK, 115, at + len(data))
            assert got == sent


def test_hosts_loopback_is_out_of_reach_where_that_was_asked_for(make: Make) -> None:
    station = Station(make(loopback=False))
    station.arp()
    with closing(socket.create_server(("127.0.0.1", 0))) as loopback:
        station.tcp((40000, loopback.getsockname()[1]), SYN, 100, 0)
        station.arp()  # its answer comes after what came of the first
        loopback.setblocking(False)
        with pytest.raises(BlockingIOError):
            loopback.accept()


def test_port_of_the_host_leads_to_the_guest(make: Make) -> None:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    station = Station(make(tcp=(f"127.0.0.1/{port}:80",)))
    station.arp()

    with closing(socket.socket()) as client:
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", port))
        source, seq, _, _ = station.get_tcp(80, SYN)
        station.tcp((80, source), SYN | ACK, 500, seq + 1)
        client.setblocking(True)
        client.settimeout(PATIENCE)
        client.sendall(b"hello")
        data = b""
        while not data:
            _, at, _, data = station.get_tcp(80, ACK)
        assert data == b"hello"
        station.tcp((80, source), ACK | PSH, 501, at + 5, b"world")
        assert client.recv(100) == b"world"


def test_features_have_no_offloads_and_the_mtu_is_passts(make: Make) -> None:
    guest = make()

    offered = guest.offered_features()
    for name in ("CSUM", "GUEST_CSUM", "GUEST_TSO4", "HOST_TSO4", "MQ"):
        assert not offered >> getattr(net, f"VIRTIO_NET_F_{name}") & 1, name
    assert int.from_bytes(guest.read_config(10, 2), "little") == 65520
    assert guest.read_config(6, 2) == b"\1\0"
    assert int.from_bytes(make(mtu=1500).read_config(10, 2), "little") == 1500


def test_driver_comes_back(make: Make) -> None:
    guest = make()
    for _ in range(3):
        Station(guest).arp()


def test_passt_that_is_killed_takes_the_link_and_nothing_else(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    guest = make()
    station = Station(guest, [*MERGE, *STATUS])
    station.arp()
    assert isinstance(guest.device, UserNet)

    os.kill(guest.device.passt.child.pid, signal.SIGKILL)
    guest.run_until(lambda: not guest.read_config(6, 2)[0] & 1)

    assert guest.take_interrupt()
    station.send(0x88B5, bytes(60))
    assert not guest.needs_reset
    guest.run_until(lambda: "net0: passt was killed by SIGKILL; the guest has no link" in caplog.text)
    guest.run()
    assert guest.run() == 0
    guest.start(STATUS)
    assert not guest.read_config(6, 2)[0] & 1


def test_passt_ends_with_the_device(make: Make) -> None:
    guest = make()
    assert isinstance(guest.device, UserNet)
    pidfd = os.pidfd_open(guest.device.passt.child.pid)

    guest.close()

    with pytest.raises(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, 0)
    os.close(pidfd)


def test_passt_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passt.shutil, "which", lambda name: None)

    with pytest.raises(HostError, match="passt is not installed, and net:user needs it: sudo apt-get install passt"):
        UserNet(NetOptions("user"))


def test_host_without_a_way_out(namespace: None) -> None:
    if not shutil.which("passt"):
        pytest.skip("needs passt (tests/system/require test)")

    try:
        device = UserNet(NetOptions("user"))
    except HostError as error:  # passt before November 2024
        assert re.search(r"net: passt ended with status 1: .*so the host needs a default route", str(error))
    else:  # a later one has a network of link-local addresses
        Guest(device, name="net0").close()


def test_ports_that_passt_does_not_take(make: Make) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]

        with pytest.raises(HostError, match=r"ailed to bind .*; give ports that are free"):
            make(tcp=(f"127.0.0.1/{port}:80",))
    with pytest.raises(UsageError, match="nvalid port specifier foo; see PORTS"):
        make(udp=("foo",))


def test_nothing_is_left_behind_by_a_failure(make: Make) -> None:
    before = os.listdir("/proc/self/fd")

    with pytest.raises(UsageError):
        make(tcp=("foo",))

    assert os.listdir("/proc/self/fd") == before
    assert subprocess.run(["pgrep", "-P", str(os.getpid()), "passt"], capture_output=True).stdout == b""

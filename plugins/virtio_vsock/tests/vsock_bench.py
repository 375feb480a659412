"""A benchmark of the device in one process: ``python vsock_bench.py``.

A driver in Python is slower than the device. So the figures are the data that the device moves per second of its
thread's CPU time, and the elapsed time.
"""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pyvmm_virtio_vsock.packet import HEADER_SIZE, Header, pack
from vsock_guest import CREDIT_UPDATE, RESPONSE, RW, Guest, Stream
from vsock_host import Host


class Clock:
    """Elapsed time, and the CPU time of the loop's turns."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._started = time.perf_counter()
        self._device = 0.0

    def turn(self) -> None:
        """Let the device do what there is."""
        before = time.thread_time()
        self._guest.loop.run_once(1)
        self._device += time.thread_time() - before

    def report(self, what: str, size: int) -> None:
        elapsed = time.perf_counter() - self._started
        print(f"{what:38} {size / self._device / 1e6:8.0f} MB/s of CPU {size / elapsed / 1e6:8.0f} MB/s elapsed")


def to_guest(path: Path, lengths: tuple[int, ...], size: int) -> None:
    """From a program of the host into receive buffers of ``lengths``."""
    with Guest(path) as guest, Host(path) as host:
        guest.start([29])
        for _ in range(256 // len(lengths)):
            guest.rx.add((), [guest.heap.allocate(length) for length in lengths])
        guest.rx.kick()
        client = host.connect(b"CONNECT 5\n")
        guest.run()
        [used] = guest.rx.take_used()
        assert used.chain is not None
        stream = Stream(guest, Header.unpack(used.chain.written()[:HEADER_SIZE]).src_port, 5, buf_alloc=1 << 31)
        stream.send(RESPONSE)
        client.recv(100)
        thread = threading.Thread(target=_send, args=(client, size))
        thread.start()
        clock, got = Clock(guest), 0
        while got < size:
            clock.turn()
            for used in guest.rx.take_used():
                assert used.chain is not None
                got += used.length - HEADER_SIZE
                guest.rx.add((), used.chain.writable)
            guest.rx.kick()
            stream.fwd_cnt = got
        clock.report(f"host to guest, buffers of {'+'.join(map(str, lengths))}", size)
        thread.join()
        stream.send(CREDIT_UPDATE)


def to_host(path: Path, packet: int, size: int) -> None:
    """From the guest, in packets with ``packet`` bytes of data."""
    with Guest(path) as guest, Host(path) as host:
        guest.up(64, features=[29])
        stream, client = host.open(guest, 5)
        thread = threading.Thread(target=_receive, args=(client, size))
        thread.start()
        header, data = guest.heap.allocate(HEADER_SIZE), guest.heap.allocate(packet)
        header.write(pack(*stream.header(RW, packet)))
        clock, sent = Clock(guest), 0
        while sent < size:
            while stream.credit >= packet and sent < size and guest.tx.in_flight < 100:
                guest.tx.add([header, data])
                sent += packet
                stream.tx_cnt += packet
            guest.tx.kick()
            clock.turn()
            guest.tx.take_used()
            for told in guest.packets():
                stream.hear(told)
            guest.post(64 - guest.rx.in_flight)
        clock.report(f"guest to host, packets of {packet}", size)
        thread.join()


def _send(client: socket.socket, size: int) -> None:
    client.setblocking(True)
    data = bytes(1 << 16)
    for _ in range(size // len(data)):
        client.sendall(data)


def _receive(client: socket.socket, size: int) -> None:
    client.setblocking(True)
    data = bytearray(1 << 18)
    while size > 0:
        size -= client.recv_into(data)


def main() -> None:
    """Linux has receive buffers of 44 and 4096 bytes, and sends packets of up to 64 KiB."""
    runs: list[tuple[Callable[[Path, int], None], int]] = [
        (lambda path, size: to_guest(path, (44, 4096), size), 128 << 20),
        (lambda path, size: to_guest(path, (44, 65536), size), 256 << 20),
        (lambda path, size: to_host(path, 4096, size), 64 << 20),
        (lambda path, size: to_host(path, 65536, size), 256 << 20),
    ]
    with tempfile.TemporaryDirectory() as directory:
        for run, size in runs:
            run(Path(directory, "vm.sock"), size)


if __name__ == "__main__":
    main()

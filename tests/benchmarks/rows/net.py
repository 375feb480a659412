"""A network card under Debian's kernel: TCP both ways, small UDP packets, pings."""

from __future__ import annotations

import re
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tests.benchmarks import namespace, vhost
from tests.benchmarks.harness import Bench, BenchError, Contender, Metric
from tests.benchmarks.linux_guest import LinuxGuest, linux_guest
from tests.benchmarks.machines import Card, Vmm
from tests.benchmarks.process import Cpu, Process
from tests.benchmarks.rows import Row

SECONDS = 3
PINGS = 200

# Reno, since cubic's slow start ends when delays grow: on one CPU it then sends small segments for a while or does not,
# and two runs of the same VMM are ten times apart.
_TCP = {
    "TCP guest to host, 1 stream": "-C reno -P 1",
    "TCP guest to host, 4 streams": "-C reno -P 4",
    "TCP host to guest, 1 stream": "-C reno -P 1 -R",
    "TCP host to guest, 4 streams": "-C reno -P 4 -R",
}
_UDP = {"UDP guest to host, 64 bytes": "-u -b 0 -l 64", "UDP host to guest, 64 bytes": "-u -b 0 -l 64 -R"}


def measure(bench: Bench) -> None:
    """Frames through user space; and, where host and pyvmm have it, by vhost."""
    with namespace.tap() as tap, _iperf_server():
        for through_vhost, vmms in vhost.ways(bench, linux=True):
            card = Card(tap.name, namespace.GUEST_MAC, vhost=through_vhost)
            with linux_guest(_script(), tools=["iperf3"], cards=[card], memory=384) as guest:
                contenders: dict[str, Contender] = {vmm.name: partial(_measure, vmm, guest) for vmm in vmms}
                bench.alternate(contenders, runs=2)


def _script() -> str:
    lines = [f"ip address add {namespace.GUEST}/30 dev eth0 && ip link set eth0 up || exit 1"]
    lines += [f"ping -c {PINGS} -i 0.05 {namespace.HOST} || exit 2"]
    for options in (*_TCP.values(), *_UDP.values()):
        lines += ["echo BEGIN", f"iperf3 -c {namespace.HOST} -f k -t {SECONDS} {options} >/tmp/out 2>&1"]
        lines += ["echo END", "grep receiver /tmp/out | tail -n 1 || exit 3"]
    return "\n".join(lines)


def _measure(vmm: Vmm, guest: LinuxGuest) -> dict[Metric, float]:
    values: dict[Metric, float] = {}
    how = ", vhost" if guest.machine.cards[0].vhost else ""
    with guest.run(vmm) as process:
        times = sorted(_pings(process))
        values[Metric(f"ping{how}, median", "ms", lower_is_better=True)] = statistics.median(times)
        values[Metric(f"ping{how}, 99 % within", "ms", lower_is_better=True)] = times[len(times) * 99 // 100]
        for name in _TCP:
            line, cpu = _one(process)
            rate = float(_found(r"([\d.]+) Kbits/sec", line)) / 1000
            values[Metric(name + how, "Mbit/s")] = rate
            gigabytes = rate * SECONDS / 8000
            values[Metric(f"{name}{how}, host CPU a GB", "s", lower_is_better=True)] = cpu.host / gigabytes
        for name in _UDP:
            line, cpu = _one(process)
            lost, total = (int(number) for number in _found(r"(\d+/\d+) \(", line).split("/"))
            values[Metric(name + how, "1/s")] = (total - lost) / SECONDS
    return values


def _pings(process: Process) -> Iterator[float]:
    for _ in range(PINGS):
        yield float(_found(r"time=([\d.]+) ms", process.wait_for("64 bytes from")))


def _one(process: Process) -> tuple[str, Cpu]:
    """One run of iperf3: its line of what was received, and the CPU time that it took the VMM."""
    process.wait_for("BEGIN")
    before = process.cpu()
    process.wait_for("END")
    cpu = process.cpu().since(before)
    return process.wait_for("["), cpu


def _found(pattern: str, line: str) -> str:
    found = re.search(pattern, line)
    if found is None:
        raise BenchError(f"not what was expected: {line!r}")
    return found[1]


@contextmanager
def _iperf_server() -> Iterator[None]:
    try:
        server = subprocess.Popen(
            ["iperf3", "--server", "--bind", namespace.HOST], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise BenchError("iperf3 is not installed (tests/system/require test)") from error
    try:
        yield
    finally:
        server.terminate()
        server.wait()


ROW = Row("net", "a network card under Debian's kernel: TCP, UDP, pings", measure, linux=True)

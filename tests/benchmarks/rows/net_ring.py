"""The network card's data plane at native speed: a bare-metal guest on a tap in a network namespace of its own."""

from __future__ import annotations

import ipaddress
from functools import partial

from tests.benchmarks import namespace, vhost
from tests.benchmarks.bare_metal import run_tests
from tests.benchmarks.harness import Bench, Contender, Metric
from tests.benchmarks.machines import Card, Vmm
from tests.benchmarks.rows import Row

MS = 500
SMALL = 60
LARGE = 14 + 65500
"""Bytes of a frame: the least, and one of TSO."""

PING = 98


def measure(bench: Bench) -> None:
    """Frames that the host drops, and pings that it answers within the VMM's write to the tap."""
    with namespace.tap() as tap:
        for through_vhost, vmms in vhost.ways(bench):
            card = Card(tap.name, namespace.GUEST_MAC, vhost=through_vhost)
            contenders: dict[str, Contender] = {vmm.name: partial(_ring, vmm, card) for vmm in vmms}
            bench.alternate(contenders, runs=3)


def _ring(vmm: Vmm, card: Card) -> dict[Metric, float]:
    ends = f"{int(ipaddress.ip_address(namespace.GUEST)):#x},{int(ipaddress.ip_address(namespace.HOST)):#x}"
    words = {
        "frames of 60 bytes sent, 64 in flight": f"net,send,{SMALL},64,{MS}",
        "frames of 64 KiB sent (TSO), 16 in flight": f"net,send,{LARGE},16,{MS}",
        "pings, one at a time": f"net,echo,{PING},1,{MS},{ends}",
        "pings, 64 in flight": f"net,echo,{PING},64,{MS},{ends}",
    }
    values: dict[Metric, float] = {}
    how = ", vhost" if card.vhost else ""
    for name, result in zip(words, run_tests(vmm, list(words.values()), cards=[card]), strict=True):
        values[Metric(name + how, "1/s")] = result.rate
        if result.count:
            cpu = 1e6 * result.cpu.others / result.count
            values[Metric(f"{name}{how}, CPU each", "µs", lower_is_better=True)] = cpu
        if "p99" in result.values:
            for part, percentile in (("half", "p50"), ("99 %", "p99")):
                latency = result.microseconds(percentile)
                values[Metric(f"{name}{how}, {part} within", "µs", lower_is_better=True)] = latency
    return values


ROW = Row("net-ring", "frames sent, and pings answered, by a bare-metal guest on a tap", measure)

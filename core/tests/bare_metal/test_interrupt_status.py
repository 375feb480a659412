"""What a driver was interrupted for, asked by a real vCPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pyvmm._native import lib
from pyvmm.testing.vcpu_driver import VcpuDriver

from core.tests.virtio.probe import Probe

STATUS, ACKNOWLEDGE = lib.VIRTIO_MMIO_INTERRUPT_STATUS, lib.VIRTIO_MMIO_INTERRUPT_ACK
VRING, CONFIG = lib.VIRTIO_MMIO_INT_VRING, lib.VIRTIO_MMIO_INT_CONFIG


def _noting(access: Callable[[int, memoryview], None], offsets: list[int]) -> Callable[[int, memoryview], None]:
    def note(offset: int, data: memoryview) -> None:
        offsets.append(offset)
        access(offset, data)

    return note


def test_a_vcpu_asks_nobody_what_it_was_interrupted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe()
    with VcpuDriver(probe) as driver:
        asked: list[int] = []
        (transport,) = driver.guest.machine.devices.transports()
        for name in ("read", "write"):
            monkeypatch.setattr(transport, name, _noting(getattr(transport, name), asked))
        driver.start()
        assert lib.VIRTIO_MMIO_STATUS in asked
        for causes in (VRING, VRING | CONFIG):
            driver.rings[0].add([b"ping"], [4])
            driver.exchange()
            driver.wait_until(driver.take_interrupt)
            if causes & CONFIG:
                transport.interrupt(CONFIG)
            assert driver.interrupt_status == causes
            driver.acknowledge(causes)
            assert driver.interrupt_status == 0
        assert not {STATUS, ACKNOWLEDGE} & set(asked)
        # Of another width nobody answers, and nothing is acknowledged.
        driver.rings[0].add([b"ping"], [4])
        driver.exchange()
        data = bytearray(b"\xff" * 2)
        driver.guest.read(driver.base + STATUS, memoryview(data))
        assert asked[-1] == STATUS
        assert driver.interrupt_status == VRING

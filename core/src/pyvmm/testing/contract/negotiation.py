"""Tests of feature negotiation and of the device's identity (virtio 1.2, sections 2.2, 3.1 and 4.2.3)."""

from __future__ import annotations

from typing import Final

from pyvmm._native import lib
from pyvmm.testing.contract.base import VirtioContractBase
from pyvmm.testing.mmio_driver import ACKNOWLEDGE, DRIVER, FEATURES_OK, VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1
from pyvmm.virtio.queue import MAX_QUEUE_SIZE

_RESERVED: Final = sum(1 << bit for bit in range(24, 50))
"""Feature bits for queues and negotiation (section 2.2), which are not device-specific."""

_KNOWN: Final = 1 << VIRTIO_F_VERSION_1 | 1 << lib.VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_F_EVENT_IDX


class NegotiationContract(VirtioContractBase):
    """The device's identity, and the features that driver and device agree on."""

    def test_has_an_id_and_queues_of_valid_sizes(self) -> None:
        with self.driven() as driver:
            assert 0 < driver.probe() < 64, "a virtio ID (section 5)"
            sizes = [driver.queue_size_max(index) for index in range(len(driver.queue_sizes) + 1)]
            assert sizes[-1] == 0, "there is one queue more than the device says"
            for size in sizes[:-1]:
                assert 0 < size <= MAX_QUEUE_SIZE and size & (size - 1) == 0, f"{size} is no size of a queue"

    def test_offers_version_1_and_no_reserved_feature(self) -> None:
        with self.driven() as driver:
            offered = driver.offered_features()
            assert offered >> VIRTIO_F_VERSION_1 & 1
            assert not offered & _RESERVED & ~_KNOWN, f"{offered:#x} has bits from 24 to 49 that are not the device's"

    def test_works_with_all_features(self) -> None:
        with self.driven() as driver:
            driver.start([bit for bit in range(128) if driver.offered_features() >> bit & 1])
            self.exercise(driver)
            assert not driver.needs_reset

    def test_takes_a_driver_that_knows_no_feature(self) -> None:
        with self.driven() as driver:
            driver.start([])
            driver.run()
            assert not driver.needs_reset
            self.assert_works(driver)

    def test_takes_or_refuses_each_feature_alone(self) -> None:
        with self.driven() as driver:
            offered = driver.offered_features()
            for bit in range(128):
                driver.begin()
                if driver.accept_features(1 << VIRTIO_F_VERSION_1 | 1 << bit):
                    assert offered >> bit & 1, f"feature {bit} was accepted and not offered"
                    driver.driver_ok()
                    driver.run()
                    assert not driver.needs_reset, f"it fails with feature {bit} alone"
            self.assert_works(driver)

    def test_refuses_a_driver_without_version_1(self) -> None:
        with self.driven() as driver:
            for features in (0, driver.offered_features() & ~(1 << VIRTIO_F_VERSION_1)):
                driver.begin()
                assert not driver.accept_features(features)
                assert driver.status == ACKNOWLEDGE | DRIVER
            self.assert_works(driver)

    def test_features_cannot_change_once_they_are_agreed_on(self) -> None:
        with self.driven() as driver:
            driver.begin()
            agreed = driver.negotiate()
            before = driver.device.acked_features
            driver.accept_features(1 << VIRTIO_F_VERSION_1)
            assert driver.status & FEATURES_OK
            assert driver.device.acked_features == before
            assert agreed >> VIRTIO_F_VERSION_1 & 1

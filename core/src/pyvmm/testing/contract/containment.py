"""Tests of failures: a device that fails harms neither the machine nor another device, and works again after a
reset."""

from __future__ import annotations

import pytest

from pyvmm._native import lib
from pyvmm.testing.contract.base import NAME, VirtioContractBase, error_lines, settle


class ContainmentContract(VirtioContractBase):
    """Each of the device's own methods raises."""

    @pytest.mark.parametrize("method", ["ack_features", "activate", "on_kick", "read_config", "write_config"])
    def test_a_failure_is_the_devices_own_and_a_reset_mends_it(
        self, method: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with self.started() as driver:
            self.exercise(driver)
            failed = []

            def fail(*_: object) -> None:
                failed.append(method)
                raise RuntimeError(f"{method} went wrong on purpose")

            setattr(driver.device, method, fail)
            caplog.clear()
            driver.begin()
            if driver.accept_features(driver.offered_features()):
                driver.start()
                driver.read_config(0, 1)
                driver.write_config(0, b"\0")
                for ring in driver.rings:
                    ring.add([], [64])
                    ring.force_kick()
                settle(driver)
            if not failed:
                pytest.skip(f"{method} is not called in this device")
            assert driver.needs_reset
            assert driver.take_interrupt()
            assert driver.interrupt_status & lib.VIRTIO_MMIO_INT_CONFIG
            (line,) = error_lines(caplog)
            assert line.startswith(f"{NAME}: RuntimeError: {method} went wrong on purpose")
            assert caplog.records[-1].exc_info, "a bug keeps its traceback"
            delattr(driver.device, method)
            caplog.clear()
            self.assert_works(driver)
            assert not error_lines(caplog)

    def test_a_device_that_failed_can_be_closed(self) -> None:
        with self.started() as driver:
            driver.rings[0].make_available(0xFFFF) if driver.rings else None
            for ring in driver.rings:
                ring.force_kick()
            settle(driver)

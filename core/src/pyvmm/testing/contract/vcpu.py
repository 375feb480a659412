"""A test of the device in a machine: a real vCPU accesses its registers, and KVM delivers kicks and interrupts."""

from __future__ import annotations

import os
from typing import Final

import pytest

from pyvmm.testing.contract.base import NAME, VirtioContractBase
from pyvmm.testing.mmio_driver import VIRTIO_F_EVENT_IDX

KVM: Final = "/dev/kvm"


class VcpuContract(VirtioContractBase):
    """The device with a guest of a few instructions, which takes milliseconds (see pyvmm.testing.vcpu_driver)."""

    def test_works_on_a_real_vcpu(self) -> None:
        if not os.path.exists(KVM):
            pytest.skip(f"no {KVM} on this machine: the device was not driven by a vCPU")
        from pyvmm.testing.vcpu_driver import VcpuDriver

        with VcpuDriver(self.make(), name=NAME) as driver:
            assert driver.probe() == driver.device.device_type
            offered = driver.offered_features()
            for features in (offered, offered & ~(1 << VIRTIO_F_EVENT_IDX)):
                driver.start([bit for bit in range(128) if features >> bit & 1])
                driver.take_interrupt()
                for ring in driver.rings:
                    ring.used_event = 0
                self.exercise(driver)
                if any(ring.used_idx for ring in driver.rings):
                    driver.wait_until(driver.take_interrupt)
                assert not driver.needs_reset
            driver.reset()
            assert driver.status == 0

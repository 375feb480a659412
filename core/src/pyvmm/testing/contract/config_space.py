"""Tests of the device's configuration space: any offset and width, also past its end (virtio 1.2, section 2.5)."""

from __future__ import annotations

from typing import Final

from pyvmm._native import lib
from pyvmm.testing.contract.base import VirtioContractBase
from pyvmm.testing.mmio_driver import NEEDS_RESET
from pyvmm.x86_64.layout import MMIO_WINDOW_SIZE

LENGTH: Final = 256
"""The bytes of a configuration space that are checked; none in virtio 1.2 has more."""

END: Final[int] = MMIO_WINDOW_SIZE - lib.VIRTIO_MMIO_CONFIG
"""The end of the window."""


class ConfigSpaceContract(VirtioContractBase):
    """Reads and writes of the configuration space, as a hostile guest makes them."""

    def test_config_reads_the_same_by_bytes_and_by_words(self) -> None:
        with self.driven() as driver:
            driver.begin()
            driver.negotiate()
            whole = driver.read_config(0, LENGTH, width=1)
            for width in (2, 4, 8):
                assert driver.read_config(0, LENGTH, width=width) == whole, f"reads of {width} bytes differ"
            for offset in (1, 2, 3, 5, 7):
                for width in (1, 2, 4, 8):
                    assert driver.read_config(offset, width) == whole[offset : offset + width]

    def test_config_past_the_end_reads_as_zeros(self) -> None:
        with self.driven() as driver:
            for width in (1, 2, 4, 8):
                for offset in (LENGTH, LENGTH + 1, 0x800, END - 8, END - width):
                    assert driver.read_config(offset, width) == bytes(width)
            assert not driver.needs_reset

    def test_config_can_be_read_at_any_time(self) -> None:
        with self.driven() as driver:
            driver.read_config(0, LENGTH, width=4)  # before any driver
            driver.start()
            driver.read_config(0, LENGTH, width=1)
            driver.reset()
            driver.read_config(0, LENGTH, width=8)
            self.assert_works(driver)

    def test_config_changes_only_where_a_driver_may_write(self) -> None:
        with self.started() as driver:
            may = set(self.writable_config)
            before = driver.read_config(0, LENGTH, width=1)
            for value in (0xFF, 0, 1, 0xA5):
                for offset in range(LENGTH):
                    driver.write_config(offset, bytes([value]))
                for width in (2, 4, 8):
                    for offset in range(LENGTH - width):
                        driver.write_config(offset, bytes([value]) * width)
            after = driver.read_config(0, LENGTH, width=1)
            changed = [at for at in range(LENGTH) if before[at] != after[at] and at not in may]
            assert not changed, f"a driver's writes changed the bytes at {changed}"
            assert not driver.status & NEEDS_RESET
            self.assert_works(driver)

    def test_config_writes_past_the_end_are_ignored(self) -> None:
        with self.started() as driver:
            for width in (1, 2, 4, 8):
                for offset in (LENGTH, 0x800, END - 8, END - width):
                    driver.write_config(offset, b"\xff" * width)
                    assert driver.read_config(offset, width) == bytes(width)
            assert not driver.needs_reset
            self.exercise(driver)

    def test_config_generation_stands_while_nothing_changes(self) -> None:
        with self.started() as driver:
            before = driver.config_generation
            driver.read_config(0, LENGTH, width=4)
            assert driver.config_generation == before

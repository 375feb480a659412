"""Tests of save and load: a device's state is in plain attributes and survives both (see pyvmm.testing.saved_state)."""

from __future__ import annotations

from pyvmm.testing.contract.base import VirtioContractBase, settle
from pyvmm.testing.saved_state import save_and_load


class SavedStateContract(VirtioContractBase):
    """A fresh device, made from the same options, continues with the plain attributes of the previous one."""

    def test_goes_on_after_save_and_load(self) -> None:
        with self.started() as driver:
            self.exercise(driver)
            before = self.visible_state(driver)
            features, status = driver.device.acked_features, driver.status
            save_and_load(driver, self.make)
            settle(driver)
            assert self.visible_state(driver) == before
            assert (driver.device.acked_features, driver.status) == (features, status)
            self.exercise(driver)
            assert not driver.needs_reset

    def test_goes_on_after_save_and_load_amid_requests(self) -> None:
        """Each request that a device had taken is given back once, as without save and load.

        Idle queues do not count: they may report, for example, that streams were lost.
        """
        undisturbed, saved = (self._given_back(saves) for saves in (False, True))
        assert saved == undisturbed, f"of each queue, requests given back: {saved}, and without it {undisturbed}"

    def _given_back(self, saves: bool) -> list[int]:
        with self.started() as driver:
            chains = [ring.add([], [64]) for ring in driver.rings]
            for ring in driver.rings:
                ring.force_kick()
            driver.loop.run_once(0)
            if saves:
                save_and_load(driver, self.make)
            settle(driver)
            for index in range(len(driver.rings)):
                self.provoke(driver, index)
            settle(driver)
            assert not driver.needs_reset
            given = [[used.chain for used in ring.take_used()] for ring in driver.rings]
            self.assert_works(driver)
            # Provoking the device may have used requests of its own.
            counts = [sum(one is chain for one in used) for chain, used in zip(chains, given, strict=True)]
            assert max(counts, default=0) <= 1, f"a request was given back more than once: {counts}"
            return [count for index, count in enumerate(counts) if index not in self.idle_queues]

    def test_can_be_saved_before_a_driver_comes(self) -> None:
        with self.driven() as driver:
            driver.prepare()
            save_and_load(driver, self.make)
            self.assert_works(driver)

    def test_can_be_saved_again_and_again(self) -> None:
        with self.started() as driver:
            for _ in range(3):
                save_and_load(driver, self.make)
                self.exercise(driver)
            assert not driver.needs_reset

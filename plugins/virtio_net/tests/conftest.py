"""Fixtures: a network namespace, the host's end of the tap in it, and guests with a card."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from net_guest import Guest
from net_host import Wire, new_namespace, why_no_taps
from pyvmm_virtio_net import NetOptions
from pyvmm_virtio_net.tap_card import Net


@pytest.fixture
def namespace() -> Iterator[None]:
    """An empty network namespace for the test, where it may have one."""
    reason = why_no_taps()
    if reason:
        pytest.skip(reason)
    with new_namespace():
        yield


@pytest.fixture
def make_guest(namespace: None) -> Iterator[Callable[..., Guest]]:
    """Makes guests with a card on a tap that is made; options as in :class:`NetOptions`."""
    guests = []

    def make(tap: str = "tap0", **options: object) -> Guest:
        guests.append(Guest(Net(NetOptions(tap, **{"vhost": "off", **options})), name="net0"))  # type: ignore[arg-type]
        return guests[-1]

    yield make
    for guest in guests:
        guest.close()


@pytest.fixture
def guest(make_guest: Callable[..., Guest]) -> Guest:
    """A guest on tap0, not started."""
    return make_guest()


@pytest.fixture
def wire(guest: Guest) -> Iterator[Wire]:
    """The host's end of tap0."""
    with Wire("tap0") as wire:
        yield wire

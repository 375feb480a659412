"""A device's state, saved and loaded: the plain values in ``vars(device)``.

A device keeps all of its state in plain attributes: numbers, texts, bytes, and tuples, lists, sets, dicts and
dataclasses of them. Things that cannot be saved, such as files, sockets, threads, timers and chains in flight, are in
other objects, which a fresh device makes again. A file descriptor is kept in an object, not as a number. So a loaded
machine makes its devices from the same options as before and puts the state into them. For a BusDevice, that happens
before ``attach``, which starts what the state asks for, such as a timer. For a VirtioDevice, it happens between
negotiation and ``activate``. Its rings are unchanged: chains that were in flight come again.
"""

from __future__ import annotations

import pickle
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from pyvmm.virtio.queue import inflight_size

if TYPE_CHECKING:
    from pyvmm.bus import BusDevice
    from pyvmm.testing.driver_ring import DriverRing
    from pyvmm.testing.virtio_driver import VirtioDriver
    from pyvmm.virtio.device import VirtioDevice

__all__ = ["is_plain", "load", "save", "save_and_load"]

_SCALARS: Final = (type(None), bool, int, float, complex, str, bytes, bytearray, Enum, PurePath)
_COLLECTIONS: Final = (tuple, list, set, frozenset, deque)

# vhost-user, "Inflight I/O tracking": features, version, desc_num, last_batch_head, used_idx; then for each head
# inflight, next, counter.
_ACCOUNT: Final = struct.Struct("<QHHHH")
_ENTRY: Final = struct.Struct("<B5xHQ")


def is_plain(value: object) -> bool:
    """Whether ``value`` can be saved."""
    if isinstance(value, _SCALARS):
        return True
    if isinstance(value, _COLLECTIONS):
        return all(is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(is_plain(key) and is_plain(item) for key, item in value.items())
    if is_dataclass(value) and not isinstance(value, type):
        return all(is_plain(getattr(value, field.name)) for field in fields(value))
    return False


def save(device: VirtioDevice | BusDevice) -> bytes:
    """The state of ``device``."""
    return pickle.dumps({name: value for name, value in vars(device).items() if is_plain(value)})


def load(device: VirtioDevice | BusDevice, state: bytes) -> None:
    """Put ``state`` into ``device``, which was made from the same options as the saved device."""
    vars(device).update(pickle.loads(state))


def save_and_load(driver: VirtioDriver, make: Callable[[], VirtioDevice]) -> VirtioDevice:
    """Replace the started device of ``driver``, as a machine does at save and load. Returns the fresh device, from
    ``make``.

    Memory and rings stay, and the driver does not notice. The device is kicked and the driver interrupted once, since a
    kick or an interrupt may have been on its way.
    """
    old = driver.transport
    state = save(driver.device)
    features, generation = old.acked_features, old.config_generation
    ready = [queue.ready for queue in old.queues]
    bases = [queue.stop() for queue in old.queues]
    old.close()
    driver.replace_device(make())
    transport = driver.transport
    driver.begin()
    assert driver.accept_features(features), f"the fresh device refuses features {features:#x}"
    load(driver.device, state)
    queues = list(zip(driver.rings, transport.queues, ready, bases, strict=True))
    for ring, queue, is_ready, base in queues:
        if is_ready:
            driver.set_up_queue(queue.index, ring)
            queue.activate = _Resumption(queue.activate, base, ring)  # type: ignore[method-assign, assignment]
    driver.driver_ok()
    for ring, queue, is_ready, _ in queues:
        if is_ready:
            del queue.activate  # restore the class's method
            ring.force_kick()
    transport.config_generation = generation
    for event in transport.interrupt_events:
        event.signal()
    return driver.device


class _Resumption:
    """Activates a queue where another one stopped. Chains that were in flight are handed out first."""

    def __init__(self, activate: Callable[..., None], base: int, ring: DriverRing) -> None:
        self._activate = activate
        self._base = base
        self._account = bytearray(inflight_size(ring.size))
        heads = ring.heads_in_flight(base)
        if heads:
            _ACCOUNT.pack_into(self._account, 0, 0, 1, ring.size, 0, ring.used_idx)
        for order, head in enumerate(heads):
            _ENTRY.pack_into(self._account, _ACCOUNT.size + _ENTRY.size * head, 1, 0, order)

    def __call__(self, *args: object) -> None:
        self._activate(*args, base=self._base, inflight=memoryview(self._account))

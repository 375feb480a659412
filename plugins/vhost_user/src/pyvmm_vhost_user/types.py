"""The types of virtio devices (virtio 1.2, section 5), and the properties of each that a front end needs."""

from __future__ import annotations

import re
from typing import NamedTuple

from pyvmm.errors import nearest
from pyvmm.virtio import constants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final


class DeviceType(NamedTuple):
    """One type of device."""

    id: int
    """The virtio ID (<linux/virtio_ids.h>)."""

    queues: int = 1
    """The number of queues that each such device has."""

    config_size: int = 0
    """The size of the configuration space that each back end has, in bytes."""

    config_features: int = 0
    """Features that concern the configuration space, and are not offered without one."""

    queues_feature: int = -1
    """The feature bit for more queues; -1 if there is none."""


_NET_CONFIG_FEATURES: Final = sum(1 << bit for bit in (3, 5, 16, 22, 56, 57, 60, 63))
"""MTU, MAC, STATUS, MQ, RSS's and the link's speed (section 5.1.3)."""

TYPES: Final = {
    "net": DeviceType(constants.VIRTIO_ID_NET, 2, 12, _NET_CONFIG_FEATURES, 22),
    "block": DeviceType(constants.VIRTIO_ID_BLOCK, 1, 60, 0, 12),
    "console": DeviceType(constants.VIRTIO_ID_CONSOLE, 2, 12),
    "rng": DeviceType(constants.VIRTIO_ID_RNG, 1),
    "balloon": DeviceType(constants.VIRTIO_ID_BALLOON, 2, 8),
    "scsi": DeviceType(constants.VIRTIO_ID_SCSI, 3, 36),
    "gpu": DeviceType(constants.VIRTIO_ID_GPU, 2, 16),
    "input": DeviceType(constants.VIRTIO_ID_INPUT, 2, 136),
    "vsock": DeviceType(constants.VIRTIO_ID_VSOCK, 3, 8),
    "crypto": DeviceType(constants.VIRTIO_ID_CRYPTO, 2, 48),
    "sound": DeviceType(constants.VIRTIO_ID_SOUND, 4, 12),
    "fs": DeviceType(constants.VIRTIO_ID_FS, 2, 40),
    "i2c": DeviceType(34),
    "gpio": DeviceType(constants.VIRTIO_ID_GPIO, 2, 8),
}
"""The types, by the names that users give."""


def parse_type(text: str) -> int:
    """A virtio ID from a name or a number; raises ValueError."""
    if text in TYPES:
        return TYPES[text].id
    if re.fullmatch("[0-9]{1,3}", text) and int(text):
        return int(text)
    raise ValueError(f"is no type of device{nearest(text, TYPES)}: {', '.join(TYPES)}, or a number")


def describe(id: int) -> DeviceType:
    """The properties of a type. An unknown type has the defaults."""
    return next((type_ for type_ in TYPES.values() if type_.id == id), DeviceType(id))

"""Virtio's constants that are common to all devices and drivers, from the kernel's headers and with their names there.

The constants of one device type are in that type's own header, and in its plugin.
"""

from __future__ import annotations

from pyvmm._native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = [
    "VIRTIO_CONFIG_S_ACKNOWLEDGE",
    "VIRTIO_CONFIG_S_DRIVER",
    "VIRTIO_CONFIG_S_DRIVER_OK",
    "VIRTIO_CONFIG_S_FAILED",
    "VIRTIO_CONFIG_S_FEATURES_OK",
    "VIRTIO_CONFIG_S_NEEDS_RESET",
    "VIRTIO_F_ACCESS_PLATFORM",
    "VIRTIO_F_VERSION_1",
    "VIRTIO_ID_9P",
    "VIRTIO_ID_BALLOON",
    "VIRTIO_ID_BLOCK",
    "VIRTIO_ID_CONSOLE",
    "VIRTIO_ID_CRYPTO",
    "VIRTIO_ID_FS",
    "VIRTIO_ID_GPIO",
    "VIRTIO_ID_GPU",
    "VIRTIO_ID_INPUT",
    "VIRTIO_ID_IOMMU",
    "VIRTIO_ID_MEM",
    "VIRTIO_ID_NET",
    "VIRTIO_ID_PMEM",
    "VIRTIO_ID_RNG",
    "VIRTIO_ID_SCSI",
    "VIRTIO_ID_SOUND",
    "VIRTIO_ID_VSOCK",
    "VIRTIO_RING_F_EVENT_IDX",
    "VIRTIO_RING_F_INDIRECT_DESC",
]

# Feature bits of rings and transports (virtio 1.2, section 6)
VIRTIO_F_VERSION_1: Final[int] = lib.VIRTIO_F_VERSION_1
VIRTIO_F_ACCESS_PLATFORM: Final[int] = lib.VIRTIO_F_ACCESS_PLATFORM
VIRTIO_RING_F_INDIRECT_DESC: Final[int] = lib.VIRTIO_RING_F_INDIRECT_DESC
VIRTIO_RING_F_EVENT_IDX: Final[int] = lib.VIRTIO_RING_F_EVENT_IDX

# Bits of a device's status (section 2.1; <linux/virtio_config.h>)
VIRTIO_CONFIG_S_ACKNOWLEDGE: Final[int] = lib.VIRTIO_CONFIG_S_ACKNOWLEDGE
VIRTIO_CONFIG_S_DRIVER: Final[int] = lib.VIRTIO_CONFIG_S_DRIVER
VIRTIO_CONFIG_S_DRIVER_OK: Final[int] = lib.VIRTIO_CONFIG_S_DRIVER_OK
VIRTIO_CONFIG_S_FEATURES_OK: Final[int] = lib.VIRTIO_CONFIG_S_FEATURES_OK
VIRTIO_CONFIG_S_NEEDS_RESET: Final[int] = lib.VIRTIO_CONFIG_S_NEEDS_RESET
VIRTIO_CONFIG_S_FAILED: Final[int] = lib.VIRTIO_CONFIG_S_FAILED

# Types of devices (section 5; <linux/virtio_ids.h>)
VIRTIO_ID_NET: Final[int] = lib.VIRTIO_ID_NET
VIRTIO_ID_BLOCK: Final[int] = lib.VIRTIO_ID_BLOCK
VIRTIO_ID_CONSOLE: Final[int] = lib.VIRTIO_ID_CONSOLE
VIRTIO_ID_RNG: Final[int] = lib.VIRTIO_ID_RNG
VIRTIO_ID_BALLOON: Final[int] = lib.VIRTIO_ID_BALLOON
VIRTIO_ID_SCSI: Final[int] = lib.VIRTIO_ID_SCSI
VIRTIO_ID_9P: Final[int] = lib.VIRTIO_ID_9P
VIRTIO_ID_GPU: Final[int] = lib.VIRTIO_ID_GPU
VIRTIO_ID_INPUT: Final[int] = lib.VIRTIO_ID_INPUT
VIRTIO_ID_VSOCK: Final[int] = lib.VIRTIO_ID_VSOCK
VIRTIO_ID_CRYPTO: Final[int] = lib.VIRTIO_ID_CRYPTO
VIRTIO_ID_IOMMU: Final[int] = lib.VIRTIO_ID_IOMMU
VIRTIO_ID_MEM: Final[int] = lib.VIRTIO_ID_MEM
VIRTIO_ID_SOUND: Final[int] = lib.VIRTIO_ID_SOUND
VIRTIO_ID_FS: Final[int] = lib.VIRTIO_ID_FS
VIRTIO_ID_PMEM: Final[int] = lib.VIRTIO_ID_PMEM
VIRTIO_ID_GPIO: Final[int] = lib.VIRTIO_ID_GPIO

"""Constants of virtio 1.2, section 5.3, and <linux/virtio_console.h>, with their names there."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

VIRTIO_CONSOLE_F_SIZE: Final = 0
VIRTIO_CONSOLE_F_EMERG_WRITE: Final = 2

RECEIVEQ: Final = 0
TRANSMITQ: Final = 1
"""The queues of port 0 (section 5.3.2)."""

EMERG_WR_OFFSET: Final = 8
"""The offset of emerg_wr in the configuration space."""

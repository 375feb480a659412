"""Constants of virtio 1.2, section 5.10, <linux/virtio_vsock.h> and <linux/vm_sockets.h>, with their names there."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

VIRTIO_VSOCK_F_STREAM: Final = 0

RXQ: Final = 0
TXQ: Final = 1
EVENTQ: Final = 2
"""The queues (section 5.10.2). The driver receives from "rx"."""

VMADDR_CID_HOST: Final = 2

VIRTIO_VSOCK_TYPE_STREAM: Final = 1

VIRTIO_VSOCK_OP_REQUEST: Final = 1
VIRTIO_VSOCK_OP_RESPONSE: Final = 2
VIRTIO_VSOCK_OP_RST: Final = 3
VIRTIO_VSOCK_OP_SHUTDOWN: Final = 4
VIRTIO_VSOCK_OP_RW: Final = 5
VIRTIO_VSOCK_OP_CREDIT_UPDATE: Final = 6
VIRTIO_VSOCK_OP_CREDIT_REQUEST: Final = 7

VIRTIO_VSOCK_SHUTDOWN_RCV: Final = 1
VIRTIO_VSOCK_SHUTDOWN_SEND: Final = 2
"""Flags of SHUTDOWN: the sender of the packet will not receive, or not send, any more."""

VIRTIO_VSOCK_EVENT_TRANSPORT_RESET: Final = 0

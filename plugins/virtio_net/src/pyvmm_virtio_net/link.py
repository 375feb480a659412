"""The kernel's notifications that an interface of the host has changed (rtnetlink(7))."""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Final
else:
    import _socket as socket  # its enums take longer to make than all that is done with them

_RTMGRP_LINK: Final = 1  # <linux/rtnetlink.h>


class LinkEvents:
    """A descriptor that becomes readable when an interface of this network namespace goes up or down, or is removed.

    The messages are dropped unread, and the tap is asked for its state. So a lost message loses nothing.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, _RTMGRP_LINK))

    @property
    def fd(self) -> int:
        """The file descriptor to wait for."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Drop all messages."""
        for _ in range(64):
            try:
                self._socket.recv(1)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # the kernel has dropped messages
                    raise

    def close(self) -> None:
        """Close it."""
        self._socket.close()

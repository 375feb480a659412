"""The host's side of a network card: a tap (tun(4), <linux/if_tun.h>)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from pyvmm.errors import HostError, PyvmmError, UsageError
from pyvmm.logs import logger

from pyvmm_virtio_net.constants import HEADER_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Final

    from pyvmm.virtio.vhost import VhostNet
else:
    import _socket as socket  # its enums take longer to make than all that is done with them

log = logger(__name__)

# <linux/if_tun.h>
TUNSETIFF: Final = 0x400454CA
TUNSETOFFLOAD: Final = 0x400454D0
TUNGETIFF: Final = 0x800454D2
TUNSETVNETHDRSZ: Final = 0x400454D8
TUNSETQUEUE: Final = 0x400454D9
IFF_TAP: Final = 0x0002
IFF_MULTI_QUEUE: Final = 0x0100
IFF_ATTACH_QUEUE: Final = 0x0200
IFF_DETACH_QUEUE: Final = 0x0400
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
IFF_TUN_EXCL: Final = 0x8000
TUN_F_CSUM: Final = 0x01
TUN_F_TSO4: Final = 0x02
TUN_F_TSO6: Final = 0x04
TUN_F_TSO_ECN: Final = 0x08
TUN_F_USO4: Final = 0x20  # Linux 6.2, as the next one
TUN_F_USO6: Final = 0x40

# <linux/sockios.h>, <linux/if.h>, <linux/ethtool.h>
SIOCGIFFLAGS: Final = 0x8913
SIOCSIFFLAGS: Final = 0x8914
SIOCGIFMTU: Final = 0x8921
SIOCSIFMTU: Final = 0x8922
SIOCETHTOOL: Final = 0x8946
IFF_UP: Final = 0x1
ETHTOOL_GLINK: Final = 0x0A

_TUN: Final = "/dev/net/tun"
_IFREQ_FLAGS: Final = struct.Struct("16sH22x")
_IFREQ_INT: Final = struct.Struct("16si20x")
_IFREQ_POINTER: Final = struct.Struct("16sQ16x")


class Tap:
    """An open tap. Each of its frames has a virtio_net_hdr_v1 before it."""

    def __init__(self, name: str, mtu: int | None = None, queues: int = 1) -> None:
        """Attach to the tap ``name``. If it does not exist, make it and bring it up; it is then removed when it is
        closed.

        ``mtu``: the MTU of a tap that is made here, in bytes. ``queues``: the number of its queues; all except the
        first are detached until :meth:`attach_queue`. Raises :class:`PyvmmError`.

        Attributes: ``fds``, a descriptor for each queue; ``made``, whether the tap was made here; ``was_up``, whether
        the interface is up; ``mtu``, the interface's MTU; ``has_uso``, whether the kernel can segment UDP for it.
        """
        self.given_name = name
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.fds: list[int] = []
        self.vhosts: list[VhostNet] = []
        """A vhost-net for each queue, if the kernel moves the frames. They are closed with the tap."""
        self.gone = False
        """Whether the interface was removed from the host."""
        try:
            self.fds.append(_open_tun())
            self.made = _attach(self.fd, name, queues > 1)
            for index in range(1, queues):
                self.fds.append(_open_tun())
                try:
                    _set_iff(self.fds[index], name, IFF_MULTI_QUEUE)
                except OSError as error:
                    raise _refused(name, error, exists=True) from error
                self.attach_queue(index, False)
            fcntl.ioctl(self.fd, TUNSETVNETHDRSZ, struct.pack("i", HEADER_SIZE))
            self.set_offload(0)
            if self.made:
                self._bring_up(mtu)
            self.was_up, self.mtu = self._look()
            self.has_uso = self._takes_uso()
        except BaseException:
            self.close()
            raise

    @property
    def fd(self) -> int:
        """The descriptor of the first queue; -1 when closed."""
        return self.fds[0] if self.fds else -1

    def attach_queue(self, index: int, attached: bool) -> None:
        """Set whether the kernel gives frames to queue ``index``, which is not the first."""
        flags = IFF_ATTACH_QUEUE if attached else IFF_DETACH_QUEUE
        try:
            fcntl.ioctl(self.fds[index], TUNSETQUEUE, _IFREQ_FLAGS.pack(b"", flags))
        except OSError as error:
            if error.errno != errno.EINVAL:  # it is in this state already, or the tap is gone
                raise

    def set_offload(self, flags: int) -> None:
        """Let the kernel give frames that need the offloads ``flags``, TUN_F_*. Raises OSError for wrong ones."""
        fcntl.ioctl(self.fd, TUNSETOFFLOAD, flags)

    def current_name(self) -> str | None:
        """The interface's name, which the host may change; None when the interface is gone."""
        try:
            answer = fcntl.ioctl(self.fd, TUNGETIFF, bytes(_IFREQ_FLAGS.size))
        except OSError:
            return None
        return _text(_IFREQ_FLAGS.unpack(answer)[0])

    def has_link(self) -> bool:
        """Whether the interface exists, is up, and has a carrier."""
        name = self.current_name()
        if name is None:
            return False
        import array  # and with it collections

        value = array.array("I", [ETHTOOL_GLINK, 0])
        try:
            fcntl.ioctl(self.socket, SIOCETHTOOL, _IFREQ_POINTER.pack(name.encode(), value.buffer_info()[0]))
        except OSError:
            return True  # it was moved to another network namespace, where this process cannot see it
        return bool(value[1])

    def close(self) -> None:
        """Close the tap. If it was made here, the kernel removes it."""
        for vhost in self.vhosts:
            vhost.close()
        for fd in self.fds:
            os.close(fd)
        self.vhosts, self.fds = [], []
        self.socket.close()

    def _bring_up(self, mtu: int | None) -> None:
        name = self.given_name.encode()
        try:
            if mtu is not None:
                fcntl.ioctl(self.socket, SIOCSIFMTU, _IFREQ_INT.pack(name, mtu))
            flags = _IFREQ_FLAGS.unpack(fcntl.ioctl(self.socket, SIOCGIFFLAGS, _IFREQ_FLAGS.pack(name, 0)))[1]
            fcntl.ioctl(self.socket, SIOCSIFFLAGS, _IFREQ_FLAGS.pack(name, flags | IFF_UP))
        except OSError as error:
            raise HostError(f"net: cannot bring up the new tap {self.given_name}: {error.strerror}") from error

    def _look(self) -> tuple[bool, int]:
        name = self.given_name.encode()
        try:
            flags = _IFREQ_FLAGS.unpack(fcntl.ioctl(self.socket, SIOCGIFFLAGS, _IFREQ_FLAGS.pack(name, 0)))[1]
            mtu = _IFREQ_INT.unpack(fcntl.ioctl(self.socket, SIOCGIFMTU, _IFREQ_INT.pack(name, 0)))[1]
        except OSError as error:
            raise HostError(f"net: tap {self.given_name} was just removed from the host: {error.strerror}") from error
        return bool(flags & IFF_UP), int(mtu)

    def _takes_uso(self) -> bool:
        """Whether the kernel segments UDP for a tap (Linux 6.2)."""
        try:
            self.set_offload(TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6)
        except OSError:
            return False
        self.set_offload(0)
        return True


def _open_tun() -> int:
    try:
        return os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            hint = f"allow this user to read and write it, or run as root: sudo chmod 0666 {_TUN}"
        elif error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
            hint = "load the kernel's driver: sudo modprobe tun"
        else:
            hint = "it is needed for every tap"
        raise HostError(f"net: cannot open {_TUN}: {error.strerror}; {hint}") from error


def _attach(fd: int, name: str, multi_queue: bool) -> bool:
    """Attach ``fd`` to the tap ``name``. Returns whether the tap was made for that."""
    flags = IFF_MULTI_QUEUE if multi_queue else 0
    if not _exists(name):
        try:
            _set_iff(fd, name, flags | IFF_TUN_EXCL)
            return True
        except OSError as error:
            if error.errno != errno.EBUSY:  # another process has just made it
                raise _refused(name, error, exists=False) from error
    try:
        _set_iff(fd, name, flags)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise _refused(name, error, exists=True) from error
        if multi_queue:
            raise _not_multi_queue(name, error) from error
        try:
            _set_iff(fd, name, IFF_MULTI_QUEUE)  # the flag must be the same as when the tap was made
        except OSError:
            raise _refused(name, error, exists=True) from error
    return False


def _set_iff(fd: int, name: str, flags: int) -> None:
    fcntl.ioctl(fd, TUNSETIFF, _IFREQ_FLAGS.pack(name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | flags))


def _exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _refused(name: str, error: OSError, exists: bool) -> PyvmmError:
    make = f'sudo ip tuntap add dev {name} mode tap user "$USER" && sudo ip link set {name} up'
    match error.errno:
        case errno.EBUSY:
            return UsageError(f"net: tap {name} is in use, perhaps by another machine; give another tap")
        case errno.EPERM if exists:
            text = f"tap {name} belongs to another user; run as root, or delete it and make it again: {make}"
        case errno.EPERM:
            text = f"there is no tap {name} and this user may not make one; make it with: {make}"
        case errno.EINVAL if exists:
            made = "a tap is made with: ip tuntap add … mode tap"
            return UsageError(f"net: interface {name} is not a tap; give another name, {made}")
        case _:
            text = f"the kernel refuses tap {name}: {error.strerror}"
    return HostError(f"net: {text}")


def _not_multi_queue(name: str, error: OSError) -> PyvmmError:
    """The error for a tap that refused several queues: it has one queue, or is no tap."""
    probe = _open_tun()
    try:
        _set_iff(probe, name, 0)
    except OSError as refusal:
        if refusal.errno == errno.EINVAL:
            return _refused(name, error, exists=True)
    finally:
        os.close(probe)
    make = f'sudo ip tuntap add dev {name} mode tap multi_queue user "$USER" && sudo ip link set {name} up'
    return UsageError(f"net: tap {name} has one queue; leave queues=N out, or delete it and make it again: {make}")


def _text(name: bytes) -> str:
    return name.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")

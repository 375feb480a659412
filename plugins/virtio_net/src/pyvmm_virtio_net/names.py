"""A network card's two names: its interface on the host and its MAC address."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_IFNAMSIZ: Final = 16  # <linux/if.h>, with the final NUL
_SO_NETNS_COOKIE: Final = 71  # <asm-generic/socket.h>, Linux 5.14


def parse_interface_name(text: str) -> str:
    """``text`` as the name of a network interface. Raises ValueError if the kernel would refuse it.

    The rules are those of dev_valid_name() in net/core/dev.c. ``%`` is refused too, since the kernel would replace it
    by a number.
    """
    if not text:
        raise ValueError("is empty; give the name of a tap, such as tap0")
    if len(text.encode("utf-8", "surrogateescape")) >= _IFNAMSIZ:
        raise ValueError(f"is longer than the {_IFNAMSIZ - 1} bytes that an interface's name may have")
    if text in (".", "..") or not all("!" <= c <= "~" and c not in "/:%" for c in text):
        raise ValueError("is no name for an interface: letters, digits, '-', '_' and '.', such as tap0")
    return text


def parse_mac(text: str) -> str:
    """A station's MAC address in lower case with colons. Raises ValueError for any other text."""
    pairs = text.replace("-", ":").split(":")
    try:
        mac = bytes.fromhex("".join(pairs))
    except ValueError:
        mac = b""
    if len(mac) != 6 or any(len(pair) != 2 or not pair.isalnum() for pair in pairs):
        raise ValueError("is not a MAC address such as 02:00:00:12:34:56")
    if mac[0] & 1:
        raise ValueError("is a multicast address; the first byte of a card's own is even, such as 02")
    if not any(mac):
        raise ValueError("is all zeros, which is no card's address")
    return mac.hex(":")


def default_mac(tap: str) -> str:
    """A locally administered address. It is the same at every start, and different for each tap and host.

    In a network namespace there is one tap of each name, with one VM on it. So the address is made from the host's
    machine-id(5), the namespace and the name. A guest that identifies its card by the address finds it again.
    """
    try:
        from _blake2 import blake2b  # hashlib's, without OpenSSL, whose libraries it loads for other hashes
    except ImportError:
        from hashlib import blake2b

    seed = [_machine_id(), _netns_cookie(), tap.encode()]
    digest = blake2b(b"\0".join(seed), digest_size=6, person=b"pyvmm-net-mac").digest()
    return bytes([digest[0] & 0xFC | 0x02, *digest[1:]]).hex(":")


def _machine_id() -> bytes:
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            with open(path, "rb") as file:
                text = file.read().strip()
        except OSError:
            continue
        if text and text != b"uninitialized":
            return text
    return os.uname().nodename.encode()


def _netns_cookie() -> bytes:
    """A number of this process's network namespace; 1 in the host's first one, at every boot."""
    import _socket as socket  # its enums take longer to make than all that is done with them

    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError:
        return b""
    finally:
        sock.close()

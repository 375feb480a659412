from __future__ import annotations

import pytest
from pyvmm.errors import UsageError
from pyvmm.options import parse_options
from pyvmm_virtio_net import NetOptions
from pyvmm_virtio_net.names import default_mac, parse_interface_name, parse_mac


@pytest.mark.parametrize("name", ["tap0", "a", "vm-1.eth_0", "fifteen-letters", "t@p"])
def test_names_that_the_kernel_takes(name: str) -> None:
    assert parse_interface_name(name) == name


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("", "is empty"),
        ("sixteen-letters!", "longer than the 15 bytes"),
        ("a/b", "is no name for an interface"),
        ("tap%d", "is no name for an interface"),
        ("eth0:1", "is no name for an interface"),
        ("tap 0", "is no name for an interface"),
        ("tap0\n", "is no name for an interface"),
        (".", "is no name for an interface"),
        ("..", "is no name for an interface"),
        ("täp0", "is no name for an interface"),
        ("\udcfftap", "is no name for an interface"),
    ],
)
def test_names_that_it_refuses(name: str, phrase: str) -> None:
    with pytest.raises(ValueError, match=phrase):
        parse_interface_name(name)


@pytest.mark.parametrize("text", ["02:00:00:12:34:56", "02-00-00-12-34-56", "52:54:00:AB:cd:EF"])
def test_mac_is_brought_into_one_form(text: str) -> None:
    assert parse_mac(text) == text.lower().replace("-", ":")


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("", "is not a MAC address"),
        ("02:00:00:12:34", "is not a MAC address"),
        ("02:00:00:12:34:56:78", "is not a MAC address"),
        ("2:0:0:12:34:56", "is not a MAC address"),
        ("02:00:00:12:34:5g", "is not a MAC address"),
        ("020000123456", "is not a MAC address"),
        ("01:00:5e:00:00:01", "is a multicast address"),
        ("ff:ff:ff:ff:ff:ff", "is a multicast address"),
        ("00:00:00:00:00:00", "is all zeros"),
    ],
)
def test_bad_mac_is_refused(text: str, phrase: str) -> None:
    with pytest.raises(ValueError, match=phrase):
        parse_mac(text)


def test_default_mac_is_local_unicast_and_stays_the_same() -> None:
    first = default_mac("tap0")

    assert parse_mac(first) == first
    assert int(first[:2], 16) & 3 == 2
    assert default_mac("tap0") == first
    assert len({default_mac(f"tap{i}") for i in range(1000)}) == 1000


def test_options_as_typed() -> None:
    options = parse_options(NetOptions, "net", "tap0,mac=52:54:00:12:34:56,mtu=9000")

    assert options == NetOptions("tap0", "52:54:00:12:34:56", 9000)


def test_user_is_passt_and_a_tap_of_that_name_has_another_spelling() -> None:
    user = parse_options(NetOptions, "net", "user,tcp=8080:80,tcp=2222:22,,2223:23,udp=127.0.0.1/53")
    tap = parse_options(NetOptions, "net", "tap=user")

    assert user.is_user and user.tcp == ("8080:80", "2222:22,2223:23") and user.udp == ("127.0.0.1/53",)
    assert not tap.is_user and tap.tap_name == "user"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "net: one tap or user is needed: net:TAP or net:user"),
        ("tap0,tap=tap1", "net: one tap or user is needed: net:TAP or net:user"),
        ("user,queues=2", "net: queues=N and vhost=on need a tap"),
        ("user,vhost=on", "net: queues=N and vhost=on need a tap"),
        ("tap0,tcp=8080:80", "net: tcp, udp and loopback work only with user; give net:user"),
        ("tap0,loopback=off", "net: tcp, udp and loopback work only with user; give net:user"),
        ("tap=user,udp=53", "net: tcp, udp and loopback work only with user; give net:user"),
        ("tap0,queues=65", "net: option 'queues': '65' is not between 1 and 64"),
        ("tap0,vhost=yes", "net: option 'vhost': 'yes' is not one of auto, on, off"),
        ("tap0,mtu=67", "net: option 'mtu': '67' is not between 68 and 65521"),
        ("tap0,mtu=65522", "net: option 'mtu': '65522' is not between 68 and 65521"),
        ("tap0,mac=1", "net: option 'mac': '1' is not a MAC address such as 02:00:00:12:34:56"),
        ("tap/0", "net: option 'host': 'tap/0' is no name for an interface"),
    ],
)
def test_options_with_a_mistake_end_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_options(NetOptions, "net", text)

    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)

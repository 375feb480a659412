"""A program's list of devices: texts, records of options and requests."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pyvmm import Machine, MachineConfig, Plugins
from pyvmm.errors import PluginError, UsageError
from pyvmm.plugins import DeviceRequest

from core.tests.distributions import LAMP, SitePackages

TWO_KINDS = LAMP.replace(
    '[DeviceKind("lamp", LampOptions, make, help="gives light")]',
    '[DeviceKind(name, LampOptions, make, help="gives light") for name in ("lamp", "candle")]',
)


def lamp_options(**options: Any) -> Any:
    return import_module("pyvmm_lamp").LampOptions(**options)


def test_texts_records_and_requests_may_be_mixed(lamp: SitePackages) -> None:
    [first] = Plugins().request_devices(["lamp:a,id=first"])

    requests = Plugins().request_devices([first, "lamp:b,colour=green", lamp_options(path=Path("c"), ro=True)])

    assert [(request.id, request.spec) for request in requests] == [
        ("first", "lamp:a,id=first"),
        ("lamp0", "lamp:b,colour=green"),
        ("lamp1", "lamp:c,ro=on"),
    ]
    assert requests[0] is first
    assert requests[1].options == lamp_options(path=Path("b"), colour="green")
    assert requests[2].options == lamp_options(path=Path("c"), ro=True)
    assert requests[2].package == "pyvmm-lamp 1.2"
    assert [request.process for request in requests] == [True, True, True]


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("lmap:x", "devices[1]: no installed package offers device kind 'lmap' (did you mean 'lamp'?)"),
        ("lamp:x,color=red", "devices[1]: lamp: unknown option 'color' (did you mean 'colour'?)"),
        ("", "devices[1]: --device: no kind in ''"),
        (5, "devices[1]: 5: not the options of an installed kind of device; give a text"),
        (None, "devices[1]: None: not the options of an installed kind of device"),
        ("lamp:x,id=lamp0", "devices[1]: lamp:x,id=lamp0: the id 'lamp0' is taken by lamp:a"),
    ],
)
def test_an_error_names_the_device_and_its_place(lamp: SitePackages, device: Any, message: str) -> None:
    with pytest.raises(UsageError) as error:
        Machine(MachineConfig("vmlinuz", devices=["lamp:a", device]))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_an_unknown_kind_is_an_error_of_plugins(lamp: SitePackages) -> None:
    with pytest.raises(PluginError):
        Machine(MachineConfig("vmlinuz", devices=["lmap:x"]))


def test_options_of_several_kinds_need_a_text(site_packages: SitePackages) -> None:
    kinds = {"lamp": "pyvmm_lamp", "candle": "pyvmm_lamp"}
    site_packages.install("pyvmm-lamp", kinds, {"pyvmm_lamp": TWO_KINDS})
    with pytest.raises(UsageError, match="the options of several kinds of device: candle, lamp; give a text"):
        Plugins().request_devices([lamp_options(path=Path("x"))])


def test_a_request_of_a_program_s_own_kind_needs_no_package(site_packages: SitePackages) -> None:
    kind: Any = object()
    request = DeviceRequest(kind, None, "mine", "mine0")
    assert Plugins().request_devices([request]) == [request]

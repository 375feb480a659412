"""What MachineConfig takes: a wrong argument is an error that names the field."""

from __future__ import annotations

import os
from typing import Any

import pytest
from pyvmm import MachineConfig
from pyvmm.errors import UsageError
from pyvmm.limits import MAX_CPUS


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kernel", 5, "kernel: 5 is not a path"),
        ("initrd", b"initrd", "initrd: b'initrd' is not a path or None"),
        ("cmdline", ["quiet"], "cmdline: ['quiet'] is not a text"),
        ("memory", "1G", "memory: '1G' is not a number of bytes, such as 1 << 30 for 1 GiB"),
        ("memory", True, "memory: True is not a number of bytes"),
        ("cpus", 1.5, "cpus: 1.5 is not a number"),
        ("cpus", 0, f"cpus: 0 are not 1 to {MAX_CPUS}"),
        ("memfd", 1, "memfd: 1 is not True or False"),
        ("devices", "block:disk.img", "devices: 'block:disk.img' is not a list; give one"),
        ("devices", 5, "devices: 5 is not a list; give one"),
        ("discovery", "apci", "discovery: 'apci' is not one of acpi, cmdline (did you mean 'acpi'?)"),
        ("name", "a/b", "name: 'a/b' may have letters, digits"),
        ("name", ".hidden", "name: '.hidden' may have letters, digits"),
        ("name", "näme", "name: 'näme' may have letters, digits"),
        ("name", "x" * 65, "has more than 64 characters"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_field(field: str, value: object, message: str) -> None:
    arguments: dict[str, Any] = {"kernel": "vmlinuz", field: value}
    with pytest.raises(UsageError) as error:
        MachineConfig(**arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memroy": 1}, "MachineConfig() has no field 'memroy' (did you mean 'memory'?)"),
        ({"colour": 1}, "MachineConfig() has no field 'colour'"),
        ({}, "MachineConfig() lacks ['kernel']"),
    ],
)
def test_a_wrong_field_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as error:
        MachineConfig(**arguments)
    assert str(error.value) == message


def test_too_many_values_and_a_field_given_twice_are_named() -> None:
    several: Any = {"kernel": "b"}
    with pytest.raises(TypeError, match=r"MachineConfig\(\) got 'kernel' twice"):
        MachineConfig("a", **several)
    many: Any = ["a"] * 30
    with pytest.raises(TypeError, match=r"has \d+ fields and got 30 values"):
        MachineConfig(*many)


@pytest.mark.parametrize("name", ["", "web", "web-1.example_a", "0", "x" * 64])
def test_names_that_fit(name: str) -> None:
    assert MachineConfig(os.devnull, name=name).name == name

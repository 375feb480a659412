"""Every declaration of native/cdef is used here once: cffi finds a wrong one only then."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pyvmm._native import ffi, lib

CDEF = Path(__file__).parents[2] / "native" / "cdef"
TEXT = "\n".join(re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL) for path in sorted(CDEF.glob("*.cdef")))

CONSTANTS = re.findall(r"^#define (\w+)", TEXT, re.MULTILINE)
STRUCTS = re.findall(r"^struct (\w+) \{", TEXT, re.MULTILINE)
ENUMS = re.findall(r"^enum (\w+) \{", TEXT, re.MULTILINE)
FUNCTIONS = re.findall(r"\b(pyvmm_\w+)\(", TEXT)


def test_there_are_declarations_of_every_sort() -> None:
    assert len(CONSTANTS) > 140
    assert len(STRUCTS) >= 25
    assert len(ENUMS) >= 1
    assert len(FUNCTIONS) > 20


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_has_a_value(name: str) -> None:
    assert isinstance(getattr(lib, name), int)


@pytest.mark.parametrize("name", STRUCTS)
def test_a_struct_can_be_made_and_its_fields_be_read(name: str) -> None:
    kind = ffi.typeof(f"struct {name}")
    fields = dict(kind.fields)
    flexible = [field for field, about in fields.items() if about.type.kind == "array" and about.type.length is None]
    value = ffi.new(f"struct {name} *", dict.fromkeys(flexible, 2))
    for field in fields:
        if field:
            getattr(value, field)
    assert ffi.sizeof(kind) >= max((about.offset for about in fields.values()), default=0)


@pytest.mark.parametrize("name", ENUMS)
def test_an_enum_has_its_values(name: str) -> None:
    for number, element in ffi.typeof(f"enum {name}").elements.items():
        assert getattr(lib, element) == number


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_there(name: str) -> None:
    assert ffi.typeof(getattr(lib, name)).kind == "function"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KVM_API_VERSION", 12),
        ("KVM_RUN", 0xAE80),
        ("KVM_SET_USER_MEMORY_REGION", 0x4020AE46),
        ("VIRTIO_MMIO_QUEUE_NOTIFY", 0x50),
        ("VIRTIO_F_VERSION_1", 32),
        ("VIRTIO_ID_NET", 1),
    ],
)
def test_constants_are_the_kernels(name: str, value: int) -> None:
    assert getattr(lib, name) == value


@pytest.mark.parametrize(
    ("name", "size"), [("kvm_regs", 144), ("kvm_sregs", 312), ("kvm_fpu", 416), ("kvm_cpuid_entry2", 40)]
)
def test_structs_have_the_kernels_size_whatever_of_them_is_declared(name: str, size: int) -> None:
    assert ffi.sizeof(f"struct {name}") == size

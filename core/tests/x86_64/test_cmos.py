"""The clock that is not there."""

from __future__ import annotations

from pyvmm.x86_64.cmos import AbsentCmos


def test_it_is_never_in_an_update_and_never_in_24_hour_mode() -> None:
    device = AbsentCmos()

    for register in range(0x80):
        device.write(0, memoryview(bytes([register])))
        data = bytearray(b"\xff")
        device.read(1, memoryview(data))

        assert data == b"\0"

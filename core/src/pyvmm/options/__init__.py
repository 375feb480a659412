"""The options of devices, as text (``KIND:ARG,key=value``) and as typed records."""

from __future__ import annotations

from pyvmm.options import records
from pyvmm.options.grammar import (
    DeviceSpec,
    OptionInfo,
    Size,
    describe,
    format_options,
    format_size,
    format_value,
    int_between,
    option,
    options,
    parse_device,
    parse_options,
    parse_path,
    parse_records,
    parse_size,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = [
    "REQUIRED",
    "DeviceSpec",
    "OptionInfo",
    "Size",
    "describe",
    "format_options",
    "format_size",
    "format_value",
    "int_between",
    "option",
    "options",
    "parse_device",
    "parse_options",
    "parse_path",
    "parse_records",
    "parse_size",
]

REQUIRED: Final[Any] = records.REQUIRED
"""The default of an option that has none."""

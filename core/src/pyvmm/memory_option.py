"""What ``--memory`` takes: ``SIZE[,hugepages=auto|off|on|2M|1G]``."""

from __future__ import annotations

from pyvmm.options.value_types import Size, parse_size
from pyvmm.startup.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_PAGE_SIZE: Final = 4096
_HUGE_PAGE_SIZES: Final = {"auto": 0, "off": 0, "on": 2 << 20, "2M": 2 << 20, "1G": 1 << 30}


@record
class MemoryOption:
    """How much memory the guest has, and of what pages."""

    size: Size

    huge_page_size: int = 0
    """Bytes of the host's reserved huge pages; 0 for memory that is not of them."""

    join_pages: bool = True
    """Whether the kernel makes huge pages of what the guest comes to use."""


def parse_memory(text: str) -> MemoryOption:
    """``1G``, or ``1G,hugepages=on``; raises ValueError with a phrase that goes on after the text."""
    first, *options = text.split(",")
    size = parse_size(first)
    page_size = 0
    join_pages = True
    for option in options:
        name, _, value = option.partition("=")
        if name != "hugepages":
            raise ValueError(f"has an unknown option {name!r}; there is hugepages={'|'.join(_HUGE_PAGE_SIZES)}")
        if value not in _HUGE_PAGE_SIZES:
            raise ValueError(f"has hugepages={value}, which is none of {', '.join(_HUGE_PAGE_SIZES)}")
        page_size = _HUGE_PAGE_SIZES[value]
        join_pages = value == "auto"
    if size == 0 or size % _PAGE_SIZE:
        raise ValueError(f"is not a multiple of the page size, {_PAGE_SIZE} bytes")
    if page_size and size % page_size:
        raise ValueError(f"is not a multiple of the huge pages' size, {page_size >> 20} MiB")
    return MemoryOption(size, page_size, join_pages)

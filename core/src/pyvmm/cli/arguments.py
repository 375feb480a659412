"""The options of the command ``pyvmm``: one table, and a reader that needs no click.

The import of click takes longer than making a machine. So a correct command line is read here. click, in
:mod:`pyvmm.cli.main_command`, reads all others by the same table: it prints the help, completes words, and reports
mistakes.
"""

from __future__ import annotations

from pyvmm.errors import UsageError
from pyvmm.limits import DEFAULT_MEMORY, MAX_CPUS, PAGE_SIZE
from pyvmm.options import DeviceSpec, Size, parse_device, parse_size
from pyvmm.startup.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final

DEFAULT_DEVICES: Final = ("serial",)
"""The kinds of default devices. A machine has them if packages that offer them are installed."""

DISCOVERIES: Final = ("acpi", "cmdline")

_HUGE_PAGE_SIZES: Final = {"auto": 0, "off": 0, "on": 2 << 20, "2M": 2 << 20, "1G": 1 << 30}


@record
class MemoryOption:
    """The value of ``--memory``: the size of guest memory, and its pages."""

    size: Size
    """Bytes."""

    huge_page_size: int = 0
    """The size of the host's reserved huge pages to use, in bytes, 2 MiB or 1 GiB; 0 for normal pages."""

    join_pages: bool = True
    """Whether the kernel makes huge pages of the memory that the guest uses."""


@record
class Arguments:
    """The values of the command's options. Each field belongs to the option of the same key in :data:`OPTIONS`."""

    kernel: str | None
    initrd: str | None
    cmdline: str
    memory: MemoryOption
    cpus: int
    devices: Sequence[DeviceSpec]
    no_default_devices: bool
    disabled: Sequence[str]
    discovery: str
    trace_startup: bool
    verbose: int


@record
class CommandOption:
    """One option of the command."""

    name: str
    """The name as it is typed: ``--kernel``."""

    help: str

    field: str = ""
    """The field of :class:`Arguments`; by default the option's name."""

    short: str = ""
    """A short form: ``-v``."""

    metavar: str = ""
    """The form of the value, for the help; empty for a flag, which has no value."""

    default: Any = None
    """The value if the option is not given, as text."""

    read: Callable[[str], Any] = str
    """Makes a value from a text. It raises :class:`UsageError`, or :class:`ValueError` with a phrase that continues the
    text, such as ``is not 1 to 64``."""

    choices: Sequence[str] = ()
    """All possible values, if they can be listed."""

    file: bool = False
    """Whether the value is a file name."""

    many: bool = False
    """Whether the option may be repeated. The result is a sequence of all values, or for a flag a count."""

    @property
    def key(self) -> str:
        """The name of the field of :class:`Arguments`."""
        return self.field or self.name[2:].replace("-", "_")


def parse_memory(text: str) -> MemoryOption:
    """The memory of ``SIZE[,hugepages=auto|off|on|2M|1G]``, such as ``1G`` or ``1G,hugepages=on``.

    Raises :class:`ValueError` with a phrase that continues the text.
    """
    first, *options = text.split(",")
    size = parse_size(first)
    page_size = 0
    join_pages = True
    for option in options:
        name, _, value = option.partition("=")
        if name != "hugepages":
            raise ValueError(f"has an unknown option {name!r}; the only one is hugepages={'|'.join(_HUGE_PAGE_SIZES)}")
        if value not in _HUGE_PAGE_SIZES:
            raise ValueError(f"has hugepages={value}, which is none of {', '.join(_HUGE_PAGE_SIZES)}")
        page_size = _HUGE_PAGE_SIZES[value]
        join_pages = value == "auto"
    if size == 0 or size % PAGE_SIZE:
        raise ValueError(f"is not a multiple of the page size, {PAGE_SIZE} bytes")
    if page_size and size % page_size:
        raise ValueError(f"is not a multiple of the huge pages' size, {page_size >> 20} MiB")
    return MemoryOption(size, page_size, join_pages)


def _parse_cpus(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_CPUS:
        raise ValueError(f"is not a whole number from 1 to {MAX_CPUS}")
    return int(text)


OPTIONS: Final = (
    CommandOption("--kernel", "Kernel: bzImage or ELF vmlinux.", metavar="FILE", file=True),
    CommandOption("--initrd", "Initial RAM disk.", metavar="FILE", file=True),
    CommandOption("--cmdline", "Parameters to add to the kernel's default command line.", metavar="TEXT", default=""),
    CommandOption(
        "--memory",
        "Guest memory. hugepages=off: use only 4 KiB pages; on (2M), 1G: use the host's reserved huge pages.",
        metavar="SIZE[,hugepages=auto]",
        default=f"{DEFAULT_MEMORY >> 20}M",
        read=parse_memory,
    ),
    CommandOption("--cpus", f"Virtual CPUs, 1 to {MAX_CPUS}.", metavar="N", default="1", read=_parse_cpus),
    CommandOption(
        "--device",
        "Add a device; may be repeated. 'help' lists the kinds.",
        field="devices",
        metavar="KIND[:ARG][,KEY=VALUE…]",
        read=parse_device,
        many=True,
    ),
    CommandOption("--no-default-devices", f"Do not add the default devices ({', '.join(DEFAULT_DEVICES)})."),
    CommandOption(
        "--no-plugin",
        "Ignore the device kind or package NAME, or those that match a pattern such as 'pyvmm-virtio-*'; may be "
        "repeated.",
        field="disabled",
        metavar="NAME",
        many=True,
    ),
    CommandOption(
        "--discovery",
        "How the guest finds its devices.",
        metavar="|".join(DISCOVERIES),
        default="acpi",
        choices=DISCOVERIES,
    ),
    CommandOption("--trace-startup", "Print the duration of each step of the start on stderr."),
    CommandOption("--verbose", "Print more messages on stderr; twice for all.", short="-v", many=True),
)
"""The options, in the order of the help. A default is the text that gives its value."""

_BY_NAME: Final = {option.name: option for option in OPTIONS}


def read(words: Sequence[str]) -> Arguments | None:
    """The arguments in ``words``; None if any of them is unknown or wrong."""
    values: dict[str, Any] = {}
    rest = iter(words)
    try:
        for word in rest:
            if word[:2] == "-v" and word.strip("v") == "-":
                values["verbose"] = values.get("verbose", 0) + len(word) - 1
                continue
            name, equals, text = word.partition("=")
            option = _BY_NAME[name]
            if not option.metavar:
                if equals:
                    return None
                values[option.key] = values.get(option.key, 0) + 1 if option.many else True
                continue
            if not equals:
                text = next(rest)
            if option.choices and text not in option.choices:
                return None
            value = option.read(text)
            values[option.key] = (*values.get(option.key, ()), value) if option.many else value
    except (KeyError, StopIteration, ValueError, UsageError):
        return None
    for option in OPTIONS:
        if option.key not in values:
            values[option.key] = default_of(option)
    return Arguments(**values)


def default_of(option: CommandOption) -> Any:
    """The value of an option that is not given."""
    if not option.metavar:
        return 0 if option.many else False
    if option.many:
        return ()
    return None if option.default is None else option.read(option.default)

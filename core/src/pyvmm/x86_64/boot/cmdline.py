"""The kernel's command line (Documentation/admin-guide/kernel-parameters.rst)."""

from __future__ import annotations

from pyvmm.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

LIMIT: Final = 2047
"""The most characters that an x86 kernel takes: COMMAND_LINE_SIZE (arch/x86/include/asm/setup.h) without the NUL."""

DEFAULT: Final = (
    # The console is the first serial port. By default the kernel would use a screen, and there is none.
    "console=ttyS0",
    # A kernel that panics resets immediately, which ends the run.
    "panic=-1",
    # Reboot by the ACPI reset register, or without ACPI by port 0x64. On hardware-reduced ACPI Linux would try EFI and
    # then a jump to the BIOS (reboot_init in arch/x86/kernel/reboot.c), which works too, but in real mode.
    "reboot=acpi",
    # There is no PCI. Without this Linux looks for it at ports 0xcf8 and 0xcfc, on some AMD CPUs for all devices on
    # 256 buses, twice (arch/x86/kernel/aperture_64.c), and each look costs two exits.
    "pci=off",
)
"""The parameters at the start of every command line.

Other parameters would gain nothing. ``i8042.*`` and ``rtc_cmos``: the FADT says that neither device is there, and
ports 0x64 and 0x70 tell a guest without ACPI quickly. ``8250.nr_uarts=``: an absent port costs Linux only a few
accesses. ``tsc=`` and ``no_timer_check``: Linux knows on KVM. ``random.trust_cpu=``: Debian's kernel is configured so.
"""


class Cmdline:
    """A command line to add to: parameters for the kernel and, after ``--``, arguments for init."""

    def __init__(self, text: str = "", limit: int = LIMIT) -> None:
        """Start with ``text``; ``limit`` is in characters."""
        self.limit = limit
        self._kernel: list[str] = []
        self._init: list[str] = []
        self.insert(text)

    def insert(self, text: str) -> None:
        """Add parameters for the kernel and, after a ``--`` among them, arguments for init.

        Raises :class:`UsageError` for characters that a kernel cannot take, or if the line would become too long. Then
        nothing is added.
        """
        kernel, init = _parse(text)
        before = self._kernel.copy(), self._init.copy()
        self._kernel += kernel
        self._init += init
        if len(str(self)) > self.limit:
            length = len(str(self))
            self._kernel, self._init = before
            raise too_long(length, self.limit)

    def push(self, key: str, value: str) -> None:
        """Add the parameter ``key=value``, with quotes if the value contains blanks."""
        if '"' in value:
            raise UsageError(f'kernel command line: the value of {key} has a ", which no parameter can have: {value!r}')
        self.insert(f'{key}="{value}"' if " " in value or "\t" in value else f"{key}={value}")

    def has(self, key: str) -> bool:
        """Whether the kernel gets the parameter ``key``, with or without a value."""
        return any(parameter.split("=", 1)[0] == key for parameter in self._kernel)

    def __str__(self) -> str:
        return " ".join(self._kernel + (["--", *self._init] if self._init else []))


def check(text: str) -> None:
    """Raise :class:`UsageError` for characters that a kernel cannot take on its command line."""
    for character in text:
        if not (" " <= character <= "~" or character == "\t"):
            raise UsageError(f"kernel command line: {character!r} cannot be on it; only printable ASCII can")
    if text.count('"') % 2:
        raise UsageError(f'kernel command line: a " is not closed in {text!r}')


def too_long(length: int, limit: int) -> UsageError:
    """The error for a command line of ``length`` characters when the kernel takes ``limit``."""
    return UsageError(f"kernel command line: {length} characters, and the kernel takes {limit}; shorten it")


def _split(text: str) -> list[str]:
    """``text`` split at blanks, but not at those in quotes."""
    # Every second part is inside of quotes. Its blanks become control characters, which check() does not allow.
    parts = text.split('"')
    parts[1::2] = [part.replace(" ", "\0").replace("\t", "\1") for part in parts[1::2]]
    return [token.replace("\0", " ").replace("\1", "\t") for token in '"'.join(parts).split()]


def _parse(text: str) -> tuple[list[str], list[str]]:
    """Parameters for the kernel and arguments for init."""
    check(text)
    tokens = _split(text)
    if "--" not in tokens:
        return tokens, []
    at = tokens.index("--")
    return tokens[:at], tokens[at + 1 :]

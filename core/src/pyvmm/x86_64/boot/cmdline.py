"""The kernel's command line (Documentation/admin-guide/kernel-parameters.rst)."""

from __future__ import annotations

from pyvmm.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

LIMIT: Final = 2047
"""Characters that an x86 kernel takes: COMMAND_LINE_SIZE (arch/x86/include/asm/setup.h) without the NUL."""

DEFAULT: Final = (
    # The console is the first serial port; without it the kernel would take a screen that is not there.
    "console=ttyS0",
    # A kernel that panics has nobody to look at its screen: reset at once, which ends the run.
    "panic=-1",
    # Reboot by the ACPI reset register, or without ACPI by port 0x64. On hardware-reduced ACPI Linux would try EFI and
    # then a jump to the BIOS (reboot_init in arch/x86/kernel/reboot.c), which works too, but in real mode.
    "reboot=acpi",
    # There is no PCI. Without this Linux looks for it at ports 0xcf8 and 0xcfc, on some AMD CPUs for all devices on
    # 256 buses, twice (arch/x86/kernel/aperture_64.c), and each look is two exits to us.
    "pci=off",
)
"""What a kernel is told before anything else.

Not here, since nothing is gained: ``i8042.*`` and ``rtc_cmos`` options (the FADT says that neither is there, and to
who has no FADT ports 0x64 and 0x70 say it at once), ``8250.nr_uarts=`` (an absent port costs Linux a few accesses),
``tsc=``, ``no_timer_check`` and ``random.trust_cpu=`` (Linux knows them by itself on KVM, Debian's kernel by its
configuration).
"""


class Cmdline:
    """A command line that grows: parameters for the kernel and, behind ``--``, arguments for init."""

    def __init__(self, text: str = "", limit: int = LIMIT) -> None:
        """Start with ``text``; ``limit`` is in characters."""
        self.limit = limit
        self._kernel: list[str] = []
        self._init: list[str] = []
        self.insert(text)

    def insert(self, text: str) -> None:
        """Add parameters, or with ``--`` in them init's arguments.

        Raises :class:`UsageError` for what a kernel cannot take, or when it becomes too long; then nothing is
        added.
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
        """Add the parameter ``key=value``, in quotes where the value has blanks."""
        if '"' in value:
            raise UsageError(f'kernel command line: the value of {key} has a ", which no parameter can have: {value!r}')
        self.insert(f'{key}="{value}"' if " " in value or "\t" in value else f"{key}={value}")

    def has(self, key: str) -> bool:
        """Whether the kernel is given the parameter ``key``, with a value or without."""
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
    """The error for a command line of ``length`` characters where ``limit`` are taken."""
    return UsageError(f"kernel command line: {length} characters, and the kernel takes {limit}; shorten it")


def _split(text: str) -> list[str]:
    """What is between blanks, but for those in quotes."""
    # In every second part, between two quotes, a blank is not one; no character that was checked is a NUL.
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

"""The lab machine: QEMU's command line, and the life of one run.

The command, its environment and its directory travel in a cpio archive behind
the initramfs. Its stdin, stdout, stderr and exit status are virtio ports, each a
pipe of ours at QEMU's end, so nothing of the kernel's console gets in between.
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from tests.lab import prepare
from tests.lab.channels import Channels, Interrupted, Silent, TimedOut
from tests.system import kernels, newc
from tests.system.kernels import PreparationError
from tests.system.prepared import TOP

LOST = 125
"""Our exit status when there is no command's one: no machine, or it died."""

TIMED_OUT = 124

PASSED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "COLORTERM", "LANG", "LANGUAGE", "TZ"),
    *("CI", "NO_COLOR", "FORCE_COLOR", "EDITOR", "PAGER", "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT"),
    *("COLUMNS", "LINES"),
)
PASSED_PREFIXES = ("PYVMM_", "LC_", "PYTHON", "PYTEST_", "PYENV_", "COVERAGE_")
"""Environment variables that the command gets."""

# Off: what TCG pays for and nobody here needs (five-level page tables, SMAP's flushes; ERMS, for which Linux
# copies and clears pages by instructions that TCG does a byte at a time),
# and XSAVE, since TCG lets a guest's XSETBV through to the machine's own XCR0.
CPU = "max,erms=off,la57=off,smap=off,smep=off,umip=off,xsave=off"
CMDLINE = (
    "console=ttyS0 panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check "
    "nowatchdog rcupdate.rcu_expedited=1 random.trust_cpu=on"
)
CONSOLE_LOGS_KEPT = 20
CONSOLE_LINES_SHOWN = 20


def main(command: list[str]) -> int:
    if not command or command[0].startswith("-"):
        print("usage: tests/lab/run COMMAND [ARGUMENT…]", file=sys.stderr)
        return 2
    if os.environ.get("PYVMM_LAB"):
        return run_here(command)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        return _run(command)
    except (PreparationError, OSError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return LOST
    except Interrupted as interrupted:
        # Die of the same signal, so that a calling shell stops too.
        signal.signal(interrupted.signum, signal.SIG_DFL)
        os.kill(os.getpid(), interrupted.signum)
        return 128 + interrupted.signum


def _interrupt(signum: int, _frame: FrameType | None) -> None:
    raise Interrupted(signum)


def run_here(command: list[str]) -> int:
    """Become the command: it needs no machine of its own."""
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        print(f"lab: {command[0]}: not found", file=sys.stderr)
        return 127
    except OSError as error:
        print(f"lab: {command[0]}: {error.strerror}", file=sys.stderr)
        return 126


def _run(command: list[str]) -> int:
    for _ in range(_positive_number("PYVMM_LAB_TRIES", 1)):
        status = _run_once(command)
        if status != LOST:
            break
    return status


def _run_once(command: list[str]) -> int:
    timeout = _positive_number("PYVMM_LAB_TIMEOUT", 1) if "PYVMM_LAB_TIMEOUT" in os.environ else None
    memory = _positive_number("PYVMM_LAB_MEMORY", 4096)
    cpus = _positive_number("PYVMM_LAB_CPUS", 1)
    silence = _positive_number("PYVMM_LAB_SILENCE", 300)
    if shutil.which("qemu-system-x86_64") is None:
        raise PreparationError("qemu-system-x86_64 is not installed (tests/system/require lab)")

    initramfs = prepare.initramfs().read_bytes()
    console = _new_console_log()
    with Channels() as channels:
        initrd = channels.memory_file(initramfs + _per_run_archive(command, channels))
        arguments = _qemu(initrd, console, memory=memory, cpus=cpus)
        try:
            status, said = channels.supervise(arguments, timeout, silence)
        except TimedOut:
            print(f"lab: stopped after PYVMM_LAB_TIMEOUT={timeout} seconds", file=sys.stderr)
            return TIMED_OUT
        except Silent:
            print(f"lab: the machine came to a stand: no sign of life for {silence} seconds", file=sys.stderr)
            return LOST
    if status is None:
        _explain_death(console, said)
        return LOST
    return status


def _positive_number(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal() or int(value) == 0:
        raise PreparationError(f"{name}={value}: a positive whole number is wanted")
    return int(value)


def _per_run_archive(command: list[str], channels: Channels) -> bytes:
    size = os.get_terminal_size(0) if channels.terminal else os.terminal_size((80, 24))
    modules = prepare.kernel().relative_to(TOP) / "lib/modules"
    release = kernels.release(prepare.kernel())
    settings = {
        "LAB_CHECKOUT": str(TOP),
        "LAB_MODULES": str(modules / release),
        "LAB_RELEASE": release,
        "LAB_TTY": "yes" if channels.terminal else "",
        "LAB_ROWS": str(size.lines or 24),
        "LAB_COLUMNS": str(size.columns or 80),
    }
    environment = {
        name: value for name, value in os.environ.items() if name in PASSED or name.startswith(PASSED_PREFIXES)
    }
    environment["PYVMM_LAB"] = "1"
    directory = shlex.quote(os.getcwd())
    missing = shlex.quote(f"lab: {os.getcwd()} cannot be seen in the lab; run it from inside the checkout")
    words = ["env", "-i", *(f"{k}={v}" for k, v in environment.items())]
    # The root's own shell, so that the command cannot be one of busybox's applets.
    words += ["/bin/sh", "-c", 'exec "$@"', "lab", *command]
    lines = (
        "#!/run/lab/busybox sh",
        f"cd {directory} 2>/dev/null || {{ echo {missing} >&2; exit {LOST}; }}",
        f"exec /run/lab/busybox {shlex.join(words)}",
    )
    script = "\n".join((*lines, ""))
    out = io.BytesIO()
    archive = newc.Newc(out)
    archive.file("lab/settings", _assignments(settings))
    archive.file("lab/command", os.fsencode(script), 0o755)
    archive.close()
    return out.getvalue()


def _assignments(settings: dict[str, str]) -> bytes:
    return os.fsencode("".join(f"{k}={shlex.quote(v)}\n" for k, v in settings.items()))


def _qemu(initrd: str, console: Path, *, memory: int, cpus: int) -> list[str]:
    arguments = ["qemu-system-x86_64", "-name", "pyvmm-lab", "-no-user-config", "-nodefaults"]
    arguments += ["-display", "none", "-no-reboot", "-M", "q35", "-cpu", CPU]
    arguments += ["-accel", "tcg,thread=multi", "-smp", str(cpus), "-m", f"{memory}M"]
    arguments += ["-kernel", str(prepare.kernel() / "vmlinux"), "-initrd", initrd]
    arguments += ["-append", CMDLINE]
    arguments += ["-chardev", f"file,id=console,path={_escaped(console)}"]
    arguments += ["-serial", "chardev:console"]
    for tag, path, mode in (("host", Path("/"), ",readonly=on"), ("checkout", TOP, "")):
        arguments += ["-fsdev"]
        arguments += [f"local,id={tag},path={_escaped(path)},security_model=none,multidevs=remap{mode}"]
        arguments += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    return arguments


def _escaped(path: Path) -> str:
    """In QEMU's options a comma is written twice."""
    return str(path).replace(",", ",,")


def _new_console_log() -> Path:
    logs = sorted(prepare.LAB.glob("console-*.log"), key=lambda log: log.stat().st_mtime)
    for log in logs[:-CONSOLE_LOGS_KEPT]:
        log.unlink(missing_ok=True)
    return prepare.LAB / f"console-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"


def _explain_death(console: Path, errors: str) -> None:
    print("lab: the machine ended before the command did", file=sys.stderr)
    if errors:
        print(errors.rstrip(), file=sys.stderr)
    try:
        lines = console.read_text(errors="replace").splitlines()
    except OSError:
        return
    # A panic's first line says more than its last.
    start = max(0, len(lines) - CONSOLE_LINES_SHOWN)
    for number, line in enumerate(lines):
        if any(sign in line for sign in ("Kernel panic", "BUG: ", "Oops: ", "sysrq: ")):
            start = number
            break
    if lines:
        print(f"lab: from {console}:", file=sys.stderr)
    for line in lines[start : start + CONSOLE_LINES_SHOWN]:
        print(f"  {line}", file=sys.stderr)

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import pyvmm
from pyvmm import logs
from pyvmm.cli.completion import complete_device
from pyvmm.cli.main import main
from pyvmm.errors import HostError
from pyvmm.exit_reason import End, ExitReason
from pyvmm.host.eventloop import EventLoop

from core.tests.distributions import SitePackages


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands for pyvmm.machine: holds the configuration that the command made; ends as it is told."""
    seen = SimpleNamespace(config=None, reason=ExitReason(End.POWEROFF), error=None, kill=0, entered=0)

    class Machine:
        def __init__(self, config: Any) -> None:
            seen.config = config
            self.loop = EventLoop()

        def __enter__(self) -> Machine:
            seen.entered += 1
            return self

        def __exit__(self, *_: object) -> None:
            seen.entered -= 1
            self.loop.close()

        def run(self) -> ExitReason:
            if seen.error:
                raise seen.error
            if seen.kill:
                os.kill(os.getpid(), seen.kill)
            reason: ExitReason = seen.reason
            return reason

        def stop(self, reason: ExitReason) -> None:
            seen.reason = reason

    module = ModuleType("pyvmm.machine")
    vars(module).update(Machine=Machine, MachineConfig=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "pyvmm.machine", module)
    monkeypatch.setattr(pyvmm, "machine", module, raising=False)
    return seen


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that passes for a kernel, and is the one that is booted unless another is named."""
    path = tmp_path / "vmlinuz"
    path.write_bytes(b"")
    monkeypatch.setenv("PYVMM_KERNEL", str(path))
    return path


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """``python -m pyvmm`` as a user has it, with this process's path."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | (env or {})
    return subprocess.run(
        [sys.executable, "-m", "pyvmm", *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_without_options_the_machine_has_the_defaults(machine: SimpleNamespace, kernel: Path) -> None:
    assert main(["--no-default-devices"]) == 0
    config = machine.config
    assert (config.kernel, config.initrd, config.cmdline) == (kernel, None, "")
    assert (config.memory, config.cpus, config.discovery, list(config.devices)) == (256 << 20, 1, "acpi", [])
    assert machine.entered == 0


def test_the_collector_is_as_before(machine: SimpleNamespace, kernel: Path) -> None:
    gc.unfreeze()
    assert main(["--no-default-devices"]) == 0
    assert gc.get_freeze_count() == 0
    assert gc.isenabled()


def test_options_reach_the_machine(machine: SimpleNamespace, lamp: SitePackages, tmp_path: Path) -> None:
    kernel, initrd = tmp_path / "k", tmp_path / "i"
    kernel.touch()
    initrd.touch()
    options = ["--kernel", str(kernel), "--initrd", str(initrd), "--cmdline", "quiet x=1", "--memory", "5G"]
    options += ["--cpus", "64", "--discovery", "cmdline", "--device", "lamp:a,ro", "--device", "lamp,path=b"]
    assert main(options) == 0
    config = machine.config
    assert (config.kernel, config.initrd, config.cmdline) == (str(kernel), str(initrd), "quiet x=1")
    assert (config.memory, config.cpus, config.discovery) == (5 << 30, 64, "cmdline")
    lamps = [request for request in config.devices if request.kind.name == "lamp"]
    assert [(request.id, str(request.options.path), request.options.ro) for request in lamps] == [
        ("lamp0", "a", True),
        ("lamp1", "b", False),
    ]


SERIAL = """
    from pyvmm.plugin import DeviceKind, hookimpl, option, options

    @options
    class Options:
        to: str = option("stdio", primary=True)

    @hookimpl
    def pyvmm_device_kinds():
        return [DeviceKind("uart", Options, lambda options: None, help="")]
"""


@pytest.mark.parametrize(
    ("options", "specs"),
    [
        ([], ["uart"]),
        (["--device", "lamp:a"], ["uart", "lamp:a"]),
        (["--device", "lamp:a", "--device", "uart:pty"], ["lamp:a", "uart:pty"]),
        (["--no-default-devices", "--device", "lamp:a"], ["lamp:a"]),
    ],
)
def test_a_default_device_is_there_unless_it_is_named_or_refused(
    machine: SimpleNamespace,
    kernel: Path,
    lamp: SitePackages,
    monkeypatch: pytest.MonkeyPatch,
    options: Sequence[str],
    specs: Sequence[str],
) -> None:
    lamp.install("pyvmm-uart", {"uart": "pyvmm_uart"}, {"pyvmm_uart": SERIAL})
    monkeypatch.setattr("pyvmm.cli.run.DEFAULT_DEVICES", ("uart",))
    assert main(list(options)) == 0
    assert [request.spec for request in machine.config.devices] == specs


def test_a_default_device_that_is_not_installed_is_silently_absent(
    machine: SimpleNamespace, kernel: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pyvmm.cli.run.DEFAULT_DEVICES", ("uart",))
    assert main([]) == 0
    assert list(machine.config.devices) == []
    assert capsys.readouterr().err == ""


def test_a_default_device_that_is_broken_is_said_and_left_out(
    machine: SimpleNamespace,
    kernel: Path,
    site_packages: SitePackages,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    site_packages.install("pyvmm-uart", {"uart": "pyvmm_uart"})
    monkeypatch.setattr("pyvmm.cli.run.DEFAULT_DEVICES", ("uart",))
    assert main([]) == 0
    assert list(machine.config.devices) == []
    assert capsys.readouterr().err.startswith("pyvmm: no uart device: pyvmm-uart 1.2: its module 'pyvmm_uart' cannot")


@pytest.mark.parametrize(
    ("reason", "status", "err"),
    [
        (ExitReason(End.POWEROFF), 0, ""),
        (ExitReason(End.REBOOT), 0, ""),
        (ExitReason(End.QUIT), 0, ""),
        (ExitReason(End.SIGNAL, signal=15), 143, ""),
        (ExitReason(End.CRASH, "triple fault\nrip 1000"), 3, "pyvmm: the guest crashed: triple fault\nrip 1000\n"),
        (ExitReason(End.HOST_FAILURE, "why"), 1, "pyvmm: the VMM failed: why\n"),
    ],
)
def test_the_end_of_the_run_is_the_exit_status(
    machine: SimpleNamespace,
    kernel: Path,
    capsys: pytest.CaptureFixture[str],
    reason: ExitReason,
    status: int,
    err: str,
) -> None:
    machine.reason = reason
    assert main(["--no-default-devices"]) == status
    assert capsys.readouterr().err == err


def test_what_the_host_lacks_is_one_line_and_status_1(
    machine: SimpleNamespace, kernel: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.error = HostError("/dev/kvm: no such file; load the module kvm")
    assert main(["--no-default-devices"]) == 1
    assert capsys.readouterr().err == "pyvmm: /dev/kvm: no such file; load the module kvm\n"
    assert machine.entered == 0


def test_a_bug_keeps_its_traceback(machine: SimpleNamespace, kernel: Path) -> None:
    machine.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        main(["--no-default-devices"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_machine_and_is_the_exit_status(
    machine: SimpleNamespace, kernel: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    machine.kill = number
    assert main(["--no-default-devices"]) == 128 + number
    assert machine.reason == ExitReason(End.SIGNAL, signal=number)
    assert machine.entered == 0
    assert signal.getsignal(number) == before


def test_a_signal_that_was_ignored_stays_ignored(
    machine: SimpleNamespace, kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        machine.kill = signal.SIGHUP
        assert main(["--no-default-devices"]) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupt_from_the_keyboard_is_status_130(machine: SimpleNamespace, kernel: Path) -> None:
    machine.error = KeyboardInterrupt()
    assert main(["--no-default-devices"]) == 130


@dataclass(frozen=True)
class Bad:
    arguments: Sequence[str]
    message: str


BAD_INPUT = [
    Bad(["--nonsense"], "--nonsense"),
    Bad(["--kernl", "x"], "--kernel"),
    Bad(["stray"], "stray"),
    Bad(["--kernel"], "--kernel"),
    Bad(["--kernel", "/no/kernel"], "--kernel: '/no/kernel': no such file"),
    Bad(["--kernel", "/"], "--kernel: '/': a directory, not a file"),
    Bad(["--kernel", ""], "--kernel"),
    Bad(["--initrd", "/no/initrd"], "--initrd: '/no/initrd': no such file"),
    Bad(["--memory", "0"], "'0' is not a multiple of the page size, 4096 bytes"),
    Bad(["--memory", "4095"], "'4095' is not a multiple of the page size, 4096 bytes"),
    Bad(["--memory", "-1"], "'-1' is not a size"),
    Bad(["--memory", "much"], "'--memory': 'much' is not a size"),
    Bad(["--memory", "99999999T"], "'99999999T' is too large"),
    Bad(["--cpus", "0"], "--cpus"),
    Bad(["--cpus", "65"], "--cpus"),
    Bad(["--cpus", "two"], "'two' is not a whole number from 1 to "),
    Bad(["--discovery", "pci"], "'pci' is not one of 'acpi', 'cmdline'"),
    Bad(["--device", ""], "--device: no kind in ''"),
    Bad(["--device", ":tap0"], "--device: no kind in ':tap0'"),
    Bad(["--device", "no\nkind"], "no installed package offers device kind 'no\\nkind'"),
    Bad(["--device", "zzz:1"], "no installed package offers device kind 'zzz'"),
    Bad(["--device", "zzz,help"], "no installed package offers device kind 'zzz'"),
    Bad(["--device", "LAMP:a"], "no installed package offers device kind 'LAMP'"),
    Bad(["--device", "lamp"], "lamp: option 'path' is missing; give it as --device lamp:PATH"),
    Bad(["--device", "lamp:a,rw"], "lamp: unknown option 'rw'"),
    Bad(
        ["--device", "lamp:a,color=red"], "lamp: unknown option 'color' (did you mean 'colour'?); its options are path"
    ),
    Bad(["--device", "lamp:a,colour=blue"], "lamp: option 'colour': 'blue' is not one of red, green"),
    Bad(["--device", "lamp:a,ro,ro"], "lamp: option 'ro' is given twice"),
    Bad(["--device", "lamp:a", "--device", "lamp:b,id=lamp0"], "lamp:b,id=lamp0: the id 'lamp0' is taken by lamp:a"),
    Bad(["--device", "bomb"], "pyvmm-bomb 1.2: its module 'pyvmm_bomb' cannot be imported: RuntimeError: boom"),
]


@pytest.mark.parametrize("bad", BAD_INPUT, ids=lambda bad: " ".join(bad.arguments).replace("\n", "?"))
def test_bad_input_is_one_line_and_status_2(
    machine: SimpleNamespace, kernel: Path, lamp: SitePackages, capsys: pytest.CaptureFixture[str], bad: Bad
) -> None:
    lamp.install("pyvmm-bomb", {"bomb": "pyvmm_bomb"}, {"pyvmm_bomb": "raise RuntimeError('boom')"})
    assert main(bad.arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pyvmm: ") and err.endswith("\n") and len(err.splitlines()) == 1
    assert bad.message in err
    assert machine.config is None


def test_a_missing_plugin_is_one_line_and_status_2_in_a_process_of_its_own(lamp: SitePackages) -> None:
    done = run("--device", "zzz:tap0")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("pyvmm: no installed package offers device kind 'zzz'; installed are ")
    assert len(done.stderr.splitlines()) == 1


def test_a_broken_plugin_shows_its_traceback_under_v(lamp: SitePackages) -> None:
    lamp.install("pyvmm-bomb", {"bomb": "pyvmm_bomb"}, {"pyvmm_bomb": "raise RuntimeError('boom')"})
    done = run("-v", "--device", "bomb")
    assert done.returncode == 2
    assert "Traceback" in done.stderr and 'pyvmm_bomb.py", line 1' in done.stderr
    assert done.stderr.splitlines()[-1].startswith("pyvmm: pyvmm-bomb 1.2: ")


def test_a_broken_plugin_that_was_not_asked_for_is_not_felt(
    machine: SimpleNamespace, kernel: Path, lamp: SitePackages, capsys: pytest.CaptureFixture[str]
) -> None:
    lamp.install("pyvmm-bomb", {"bomb": "pyvmm_bomb"}, {"pyvmm_bomb": "raise RuntimeError('boom')"})
    assert main(["--no-default-devices", "--device", "lamp:a"]) == 0
    assert main(["--device", "lamp,help"]) == 0
    assert capsys.readouterr().err == ""


def test_device_help_lists_kinds_with_package_version_and_state(
    lamp: SitePackages, capsys: pytest.CaptureFixture[str]
) -> None:
    lamp.install("pyvmm-bomb", {"bomb": "pyvmm_bomb"}, {"pyvmm_bomb": "raise RuntimeError('boom')"})
    assert main(["--device", "help"]) == 0
    out, err = capsys.readouterr()
    rows = {line.split()[0]: line.split(maxsplit=4)[1:] for line in out.splitlines() if len(line.split()) > 4}
    assert rows["KIND"] == ["PACKAGE", "VERSION", "STATE", "HELP"]
    assert rows["lamp"] == ["pyvmm-lamp", "1.2", "ok", "gives light"]
    assert rows["bomb"][:3] == ["pyvmm-bomb", "1.2", "broken"]
    assert rows["bomb"][3] == "its module 'pyvmm_bomb' cannot be imported: RuntimeError: boom"
    assert err == ""


@pytest.mark.parametrize("spec", ["lamp,help", "lamp:a,ro,help"])
def test_help_for_a_kind_lists_its_options_with_types_and_defaults(
    lamp: SitePackages, capsys: pytest.CaptureFixture[str], spec: str
) -> None:
    assert main(["--device", spec]) == 0
    assert capsys.readouterr().out == (
        "lamp: gives light (pyvmm-lamp 1.2)\n"
        "\n"
        "--device lamp:PATH[,OPTION=VALUE…]\n"
        "\n"
        "OPTION               DEFAULT        HELP\n"
        "path=PATH            must be given  file that the light comes from (its name may be left out)\n"
        "ro[=on|off]          off            never written to\n"
        "colour=red|green     red            of the light\n"
        "id=TEXT              none           name of the lamp\n"
        "process=auto|on|off  auto           run the device in a process of its own; auto: on a host with one CPU only "
        "if the device needs the GIL\n"
        "restart[=on|off]     off            replace the device's process if it dies: requests continue, its state in "
        "memory is lost\n"
    )


def test_the_version_is_printed() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"pyvmm {pyvmm.__version__}\n")


def test_help_imports_no_plugin_and_nothing_that_it_does_not_need(lamp: SitePackages) -> None:
    lamp.install("pyvmm-bomb", {"bomb": "pyvmm_bomb"}, {"pyvmm_bomb": "print('imported')"})
    done = run("--help")
    assert done.returncode == 0
    assert "--device KIND[:ARG][,KEY=VALUE…]" in done.stdout and "imported" not in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--device", "lamp:a", "--kernel", "/no/kernel"]])
def test_a_start_imports_nothing_that_it_does_not_need(lamp: SitePackages, arguments: Sequence[str]) -> None:
    script = "import sys; from pyvmm.cli.main import main; main(sys.argv[1:]); print('\\nMODULES', *sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    modules = set(done.stdout.rpartition("MODULES ")[2].split())
    assert not modules & {
        "difflib",
        "importlib_metadata",
        "pyvmm.machine.machine",
        "pyvmm.cli.device_help",
        "pyvmm.cli.completion",
    }
    if arguments != ["--help"]:
        assert "click" not in modules
    else:
        assert not modules & {"pluggy", "logging", "cffi", "_cffi_backend", "pyvmm.plugins.registry", "pyvmm_lamp"}


@pytest.mark.parametrize(
    ("incomplete", "values"),
    [
        ("la", ["lamp"]),
        ("hel", ["help"]),
        (
            "lamp:a,",
            [f"lamp:a,{option}" for option in ("path=", "ro", "colour=", "id=", "process=", "restart", "help")],
        ),
        ("lamp,r", ["lamp,ro", "lamp,restart"]),
        ("lamp:a,ro,colour=", ["lamp:a,ro,colour=red", "lamp:a,ro,colour=green"]),
        ("lamp:a,colour=g", ["lamp:a,colour=green"]),
        ("zzz:a,", []),
        (":a,", []),
    ],
)
def test_the_shell_is_offered_kinds_and_their_options(
    lamp: SitePackages, incomplete: str, values: Sequence[str]
) -> None:
    assert [item.value for item in complete_device(incomplete)] == values


@pytest.mark.parametrize("incomplete", ["lamp:", "lamp:/etc/pass", "lamp,path=/etc"])
def test_the_shell_is_offered_files_where_a_path_is_wanted(lamp: SitePackages, incomplete: str) -> None:
    assert [item.type for item in complete_device(incomplete)] == ["file"]


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("pyvmm --device la", ["lamp"]),
        ("pyvmm --device lamp:a,co", ["a,colour="]),
        ("pyvmm --device lamp:a,colour=", ["red", "green"]),
        ("pyvmm --discovery ", ["acpi", "cmdline"]),
        ("pyvmm --kern", ["--kernel"]),
    ],
)
def test_bash_completes_behind_colons_and_equals_signs(
    lamp: SitePackages, tmp_path: Path, line: str, replies: Sequence[str]
) -> None:
    command = tmp_path / "pyvmm"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m pyvmm "$@"\n')
    command.chmod(0o755)
    script = (
        'eval "$(_PYVMM_COMPLETE=bash_source pyvmm)"; compopt() { :; }; COMP_LINE=$1; COMP_POINT=${#1}; '
        '_pyvmm_completion pyvmm; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script, "bash", line], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == list(replies)


@pytest.mark.parametrize(("verbosity", "lines"), [(0, 1), (1, 2), (2, 3)])
def test_log_lines_name_the_program_and_the_part(tmp_path: Path, verbosity: int, lines: int) -> None:
    with open(tmp_path / "log", "w+") as stream:
        logs.configure(verbosity, stream)
        logging.getLogger("pyvmm.bus").warning("no device at %#x", 16)
        logging.getLogger("pyvmm_lamp").info("lit")
        logging.getLogger("pyvmm_lamp").debug("warm")
        stream.seek(0)
        expected = ["pyvmm: bus: no device at 0x10\n", "pyvmm: pyvmm_lamp: lit\n", "pyvmm: pyvmm_lamp: warm\n"]
        assert stream.readlines() == expected[:lines]


def test_log_lines_on_a_terminal_return_the_carriage() -> None:
    controller, terminal = pty.openpty()
    with open(terminal, "w") as stream, open(controller, "rb", buffering=0) as screen:
        import tty

        tty.setraw(terminal)
        logs.configure(0, stream)
        logging.getLogger("pyvmm.bus").warning("one\ntwo")
        assert screen.read(100) == b"pyvmm: bus: one\r\n    two\r\n"


def test_the_librarys_main_names_are_found_when_they_are_asked_for(machine: SimpleNamespace) -> None:
    assert pyvmm.Machine is sys.modules["pyvmm.machine"].Machine
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        pyvmm.Nothing  # noqa: B018


def test_the_command_can_be_run_as_a_module() -> None:
    assert importlib.util.find_spec("pyvmm.__main__") is not None
    assert run("--nonsense").returncode == 2

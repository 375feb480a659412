"""Devices in processes: what they have, what they say, how they die, and what the machine makes of it."""

from __future__ import annotations

import enum
import gc
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyvmm.device_process import parent
from pyvmm.device_process.parent import DeviceError, DeviceProcesses
from pyvmm.device_request import view_of
from pyvmm.errors import HostError, PyvmmError, UsageError
from pyvmm.exit_reason import End, ExitReason
from pyvmm.options import parse_device
from pyvmm.plugins import PluginError, Plugins
from pyvmm.startup.record import replace
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm.testing.waiting import wait_until
from pyvmm.vhost_user.front_end import VhostUserDevice

from core.tests.distributions import SitePackages

ODD = """
    import ctypes
    import logging
    import os
    import signal
    import sys

    from pyvmm.errors import HostError, UsageError
    from pyvmm.exit_reason import End, ExitReason
    from pyvmm.plugin import DeviceKind, hookimpl, option, options
    from pyvmm.virtio.device import VirtioDevice

    log = logging.getLogger(__name__)


    @options
    class OddOptions:
        make: str = option("", primary=True, help="what happens when it is made")
        any: object = option(None, parse=str, help="anything")


    class Odd(VirtioDevice):
        device_type = 42
        queue_max_sizes = (16, 8, 4)
        device_features = 3
        config = bytearray(b"odd-config")

        def __init__(self, options):
            self.options = options
            if options.make == "usage":
                raise UsageError("odd: this is your mistake;\\nmend it")
            if options.make == "host":
                raise HostError("odd: this is the host's")
            if options.make == "bug":
                raise KeyError("a bug")
            if options.make == "exit":
                sys.exit(5)
            if options.make == "segv":
                os.kill(os.getpid(), signal.SIGSEGV)
            if options.make == "warn":
                log.warning("odd: there is something")
                print("printed")

        def on_kick(self, queue):
            for chain in queue:
                word, _, rest = chain.read(0, 4096).decode().partition(" ")
                answer = getattr(self, word)(rest)
                chain.complete(chain.write(0, str(answer).encode()))

        def own_options(self, _):
            return repr(self.options)

        def echo(self, text):
            return text

        def machine(self, _):
            devices = [f"{id} is {info.kind} of {info.package}" for id, info in self.context.devices.items()]
            self.context.directory().joinpath("mark").touch()
            return "\\n".join([str(self.context.directory()), *devices])

        def pid(self, _):
            return os.getpid()

        def fds(self, _):
            paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
            return sorted(os.readlink(path) for path in paths if os.path.lexists(path))

        def say(self, text):
            log.info("%s", text)
            log.warning("odd0: %s", text)

        def multiline(self, _):
            log.error("one\\ntwo\\x1b[31m three")

        def stderr(self, text):
            print(text, file=sys.stderr)

        def raw(self, text):
            os.write(2, eval(text))

        def flood(self, _):
            for i in range(1500):
                log.warning("line %d", i)

        def die(self, number):
            os.kill(os.getpid(), int(number))

        def leave(self, status):
            os._exit(int(status))

        def exit(self, status):
            sys.exit(int(status))

        def fail(self, text):
            raise ValueError(text)

        def crash(self, _):
            ctypes.string_at(8)

        def poweroff(self, detail):
            self.context.stop(ExitReason(End.POWEROFF, detail))

        def hold(self, path):
            # For ever, where nobody has been here before.
            if not os.path.exists(path):
                open(path, "x").close()
                signal.pause()

        def signals(self, _):
            return [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == [signal.SIG_IGN] * 2


    class NotVirtio:
        def close(self):
            pass


    @hookimpl
    def pyvmm_device_kinds():
        return [
            DeviceKind("odd", OddOptions, Odd, help="odd"),
            DeviceKind("other", OddOptions, lambda options: NotVirtio(), help="no virtio device"),
        ]
"""


@pytest.fixture
def odd(site_packages: SitePackages, caplog: pytest.LogCaptureFixture) -> None:
    """The kinds ``odd`` and ``other`` are installed."""
    site_packages.install("pyvmm-odd", {"odd": "pyvmm_odd", "other": "pyvmm_odd"}, {"pyvmm_odd": ODD})
    caplog.set_level(logging.INFO)


class Bench:
    """A driver of one device in a process."""

    def __init__(self, pool: DeviceProcesses, device: VhostUserDevice) -> None:
        self.pool = pool
        self.device = device
        self.driver = VirtioDriver(device, name="odd0", size=8 << 20)
        self.driver.start()

    @property
    def process(self) -> parent.DeviceProcess:
        source = self.device._source
        assert isinstance(source, parent.DeviceProcess)
        return source

    @property
    def pid(self) -> int:
        assert self.process.child is not None
        return self.process.child.pid

    def send(self, text: str) -> None:
        """Make a request and do not wait."""
        ring = self.driver.rings[0]
        ring.add([text.encode()], [4096])
        ring.kick()

    def ask(self, text: str) -> str:
        """Make a request; what the device answers."""
        ring = self.driver.rings[0]
        chain = ring.add([text.encode()], [4096])
        ring.kick()
        [used] = self.driver.wait_used(0, ring.in_flight)
        return chain.written()[: used.length].decode()

    def wait_for_failure(self) -> None:
        self.driver.run_until(lambda: self.driver.needs_reset)

    def close(self) -> None:
        self.driver.close()
        self.pool.close()


def start(spec: str) -> tuple[DeviceProcesses, VhostUserDevice]:
    [request] = Plugins().request_devices([parse_device(spec)])
    pool = DeviceProcesses()
    try:
        pool.start([request])
        device = pool.take(request.id)
        assert device is not None
    except BaseException:
        pool.close()
        raise
    return pool, device


@pytest.fixture
def make(odd: None) -> Iterator[Callable[..., Bench]]:
    """Makes devices."""
    benches = []

    def make(spec: str = "odd:,process=on") -> Bench:
        benches.append(Bench(*start(spec)))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


# --- What it is


def test_device_is_as_in_the_machines_process(make: Callable[..., Bench]) -> None:
    bench = make()
    assert bench.device.device_type == 42
    assert bench.device.queue_max_sizes == (16, 8, 4)
    assert bench.device.device_features == 3
    assert bench.driver.read_config(0, 12) == b"odd-config\0\0"
    assert bench.ask("echo hello") == "hello"


def test_process_is_another_one_with_a_name(make: Callable[..., Bench]) -> None:
    bench = make()
    pid = int(bench.ask("pid"))
    assert pid == bench.pid != os.getpid()
    assert Path(f"/proc/{pid}/comm").read_text() == "pyvmm:odd0\n"
    assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"pyvmm: odd0: ")
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert int(stat[2]) == pid, "a process group of its own"
    assert stat[4] == "0", "and no terminal"


def test_process_has_only_descriptors_that_it_needs(make: Callable[..., Bench], tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w"):
        first, second = make(), make()
    for bench in (first, second):
        names = bench.ask("fds")
        assert "secret" not in names
        assert names.count("'socket:") == 2, "the connection and the channel for its requests"
        assert 1 <= names.count("guest-memory") <= 2, "Python's mmap has a duplicate"
        assert names.count("/dev/null") == 1


def test_process_leaves_signals_of_a_terminal_to_the_machine(make: Callable[..., Bench]) -> None:
    bench = make()
    assert bench.ask("signals") == "True"


def test_collector_is_as_before(make: Callable[..., Bench]) -> None:
    gc.unfreeze()
    make()
    assert gc.get_freeze_count() == 0
    assert gc.isenabled()


def test_process_off_is_in_the_machines_process(odd: None) -> None:
    [request] = Plugins().request_devices([parse_device("odd:,process=off")])
    with DeviceProcesses() as pool:
        pool.start([request])
        assert pool.take(request.id) is None


@pytest.mark.parametrize(
    ("cpus", "gil_free", "spec", "process"),
    [
        (1, True, "odd:", False),
        (1, True, "odd:,process=on", True),
        (1, True, "odd:,restart=on", True),
        (1, False, "odd:", True),
        (1, False, "odd:,process=off", False),
        (2, True, "odd:", True),
        (2, True, "odd:,process=off", False),
    ],
)
def test_by_default_one_cpu_is_for_one_process(
    site_packages: SitePackages, monkeypatch: pytest.MonkeyPatch, cpus: int, gil_free: bool, spec: str, process: bool
) -> None:
    source = ODD.replace('help="odd"', f'help="odd", gil_free={gil_free}')
    site_packages.install("pyvmm-odd", {"odd": "pyvmm_odd"}, {"pyvmm_odd": source})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    [request] = Plugins().request_devices([parse_device(spec)])
    assert request.process == process


def test_machine_with_threads_makes_programs(make: Callable[..., Bench]) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        bench = make()
        assert bench.ask("echo hello") == "hello"
        assert bench.ask("signals") == "True"
        names = bench.ask("fds")
        assert names.count("'socket:") == 2
        assert Path(f"/proc/{bench.pid}/comm").read_text() == "pyvmm:odd0\n"
    finally:
        done.set()
        thread.join()


def test_restart_needs_a_process(odd: None) -> None:
    with pytest.raises(UsageError, match="restart=on needs a process of the device's own; leave out process=off"):
        Plugins().request_devices([parse_device("odd:,process=off,restart=on")])


def test_plugin_cannot_take_an_option_of_all_devices(site_packages: SitePackages) -> None:
    source = ODD.replace("make: str", "process: str").replace("options.make", "options.process")
    site_packages.install("pyvmm-odd", {"odd": "pyvmm_odd"}, {"pyvmm_odd": source})
    with pytest.raises(PluginError, match="'process' is an option of every virtio device"):
        Plugins().kind("odd")


# --- Options that were made in Python


def start_with(spec: str, options: Callable[[type], object]) -> Bench:
    """A device whose options are what ``options`` makes of its record; ``spec`` is only what messages say."""
    [request] = Plugins().request_devices([parse_device("odd:,process=on,restart=on")])
    request = replace(request, options=options(request.kind.options), spec=spec)
    pool = DeviceProcesses()
    try:
        pool.start([request])
        device = pool.take(request.id)
        assert device is not None
    except BaseException:
        pool.close()
        raise
    return Bench(pool, device)


OPTIONS: dict[str, Callable[[type], object]] = {
    "another text": lambda odd: odd(make="b"),
    "no text": lambda odd: odd(make="a,any=\0\n,make=host", any=(Path("/x,y"), b"\xff\0", 1.5, Number.TWO)),
    "large": lambda odd: odd(make="x" * 300_000),
}


class Number(enum.Enum):
    TWO = 2


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("spec", ["odd:a", "odd:host", "nonsense:,,=\0"])
def test_what_replaces_a_device_has_its_options_whatever_they_are_called(odd: None, name: str, spec: str) -> None:
    bench = start_with(spec, OPTIONS[name])
    try:
        expected = repr(bench.process.request.options)[:4096]
        first = bench.pid
        assert bench.ask("own_options") == expected
        os.kill(first, signal.SIGKILL)
        assert bench.ask("own_options") == expected
        assert bench.pid != first
    finally:
        bench.close()


@pytest.mark.parametrize("name", OPTIONS)
def test_so_has_a_device_of_a_machine_with_threads(odd: None, name: str) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        bench = start_with("odd:host", OPTIONS[name])
        assert bench.ask("own_options") == repr(bench.process.request.options)[:4096]
        bench.close()
    finally:
        done.set()
        thread.join()


def test_options_that_no_other_program_can_have_are_one_line(odd: None) -> None:
    before = len(os.listdir("/proc/self/fd"))
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with pytest.raises(HostError, match=r"^odd0: its options cannot be given to a new program: .*; give "):
            start_with("odd:", lambda odd: odd(any=lambda: None))
    finally:
        done.set()
        thread.join()
    assert len(os.listdir("/proc/self/fd")) == before


# --- Errors while it is made


def test_users_mistake_is_the_same_one_line(odd: None) -> None:
    with pytest.raises(UsageError) as caught:
        start("odd:usage,process=on")
    assert str(caught.value) == "odd: this is your mistake; mend it"
    assert caught.value.exit_status == 2


def test_what_the_host_lacks_is_the_same_one_line(odd: None) -> None:
    with pytest.raises(HostError, match=r"^odd: this is the host's$"):
        start("odd:host,process=on")


def test_bug_keeps_its_traceback(odd: None) -> None:
    with pytest.raises(DeviceError, match=r"(?s)odd:bug.*Traceback.*in __init__.*KeyError: .a bug") as caught:
        start("odd:bug,process=on")
    assert not isinstance(caught.value, PyvmmError)


def test_exit_is_a_bug(odd: None) -> None:
    with pytest.raises(DeviceError, match="SystemExit: 5"):
        start("odd:exit,process=on")


def test_signal_is_told(odd: None, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(HostError, match="odd0: its process was killed by SIGSEGV before the device was made"):
        start("odd:segv,process=on")
    assert any("Fatal Python error: Segmentation fault" in line for line in messages(caplog))


def test_kind_that_makes_no_virtio_device_is_told_how_to_say_so(odd: None) -> None:
    with pytest.raises(UsageError, match="needs process=False"):
        start("other:,process=on")


# --- What it says


def test_what_is_said_while_it_is_made_is_heard(make: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    make("odd:warn,process=on")
    assert "odd0: odd: there is something" in messages(caplog)
    wait_until(lambda: "odd0: printed" in messages(caplog))


def test_log_records_keep_logger_and_level(make: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    make().ask("say hello")
    wait_until(lambda: "odd0: hello" in messages(caplog))
    records = [record for record in caplog.records if record.getMessage() == "odd0: hello"]
    assert [(record.name, record.levelno) for record in records] == [
        ("pyvmm_odd", logging.INFO),
        ("pyvmm_odd", logging.WARNING),
    ]


def test_record_of_several_lines_is_one_without_control_characters(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    make().ask("multiline")
    wait_until(lambda: "odd0: one\ntwo\\x1b[31m three" in messages(caplog))


def test_stderr_comes_out_with_the_name(make: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    make().ask("stderr schräg")
    wait_until(lambda: "odd0: schräg" in messages(caplog))


@pytest.mark.parametrize(
    "raw",
    [
        b"\x1e99999999999\x1fx\x1fy\n",
        b"\x1e20\x1f\xff\xfe\x1fy\n",
        b"\x1e20\x1fa b c\x1f\\xzz\n",
        b"\x1e\x1f\x1f\x1f\x1f\n",
        b"\xff\xfe\x80\n",
        b"\x1e20\x1fx\n",
        pytest.param(b"x" * 200_000 + b"\n", id="a line of 200,000 bytes"),  # pytest puts it into the environment
    ],
)
def test_nonsense_in_the_log_is_harmless(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture, raw: bytes
) -> None:
    bench = make()
    bench.send(f"raw {raw[:3000]!r}") if len(raw) < 3000 else bench.send("raw b'x' * 200_000 + b'\\n'")
    bench.send("stderr after")
    wait_until(lambda: "odd0: after" in messages(caplog))


def test_loggers_that_a_process_makes_are_few(make: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    bench = make()
    before = len(logging.root.manager.loggerDict)
    for i in range(100):
        bench.ask(f"raw b'\\x1e30\\x1fmade{i}\\x1fx\\n'")
    bench.ask("stderr after")
    wait_until(lambda: "odd0: after" in messages(caplog))
    assert len(logging.root.manager.loggerDict) < before + 40


def test_flood_makes_the_device_wait_not_the_machine(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    bench = make()
    bench.send("flood")
    wait_until(lambda: "odd0: line 1499" in messages(caplog))
    times = [record.created for record in caplog.records if "odd0: line " in record.getMessage()]
    assert len(times) == 1500
    assert sum(time < times[0] + 0.9 for time in times) < 1000  # 500 a second, and a little more


def test_device_ends_the_machine(odd: None) -> None:
    pool, device = start("odd:,process=on")
    stopped: list[ExitReason] = []
    bench = Bench(pool, device)
    try:
        bench.process._stop = stopped.append
        bench.ask("poweroff by the button")
        wait_until(lambda: bool(stopped))
        assert stopped == [ExitReason(End.POWEROFF, "by the button")]
    finally:
        bench.close()


# --- How it dies


@pytest.mark.parametrize(
    ("request_", "how"),
    [
        ("die 9", "its process was killed by SIGKILL"),
        ("die 6", "its process was killed by SIGABRT"),
        ("leave 7", "its process ended with status 7"),
        ("exit 7", "its process ended with status 1"),
        ("crash", "its process was killed by SIGSEGV"),
    ],
)
def test_death_fails_the_device_and_says_how(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture, request_: str, how: str
) -> None:
    bench = make()
    bench.send(request_)
    bench.wait_for_failure()
    wait_until(lambda: any(line.startswith(f"odd0: {how}; it is not served") for line in messages(caplog)))
    if request_ == "crash":
        assert any("on_kick" in line for line in messages(caplog)), "where it was in Python"
    if request_.startswith("exit"):
        assert any("SystemExit: 7" in line for line in messages(caplog)), "the traceback"


def test_exception_fails_the_device_and_not_its_process(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    bench = make()
    bench.send("fail it broke")
    bench.wait_for_failure()
    what = "odd0 (pyvmm-odd 1.2): ValueError: it broke; it is not served"
    wait_until(lambda: any(line.startswith(what) and "Traceback" in line for line in messages(caplog)))
    bench.driver.start()
    assert bench.ask("echo hello") == "hello"


def test_process_that_stalls_is_killed(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    monkeypatch.setattr("pyvmm.vhost_user.session.STOP_TIMEOUT", 0.3)
    os.kill(bench.pid, signal.SIGSTOP)
    bench.driver.reset()
    assert bench.process.child is not None and bench.process.child.outcome == "was killed by SIGKILL"
    assert any("its process was killed, since the other side does not answer" in line for line in messages(caplog, 0))


def test_replaced_process_goes_on(make: Callable[..., Bench], caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    bench = make("odd:,process=on,restart=on")
    first = bench.pid
    bench.send(f"hold {tmp_path / 'held'}")
    bench.send("echo 1")
    wait_until((tmp_path / "held").exists)
    os.kill(first, signal.SIGKILL)
    bench.driver.wait_used(0, 2)
    assert bench.ask("echo hello") == "hello"
    assert bench.pid == int(bench.ask("pid")) != first
    assert "odd0: its process was killed by SIGKILL; a new one replaces it" in messages(caplog)
    assert Path(f"/proc/{bench.pid}/comm").read_text() == "pyvmm:odd0\n"
    bench.ask("stderr still heard")
    wait_until(lambda: "odd0: still heard" in messages(caplog))


def test_device_sees_its_machine_also_from_a_process_that_takes_a_dead_ones_place(
    odd: None, site_packages: SitePackages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is of the same package, though another claims its kind, which was disabled."""
    site_packages.install("pyvmm-even", {"odd": "pyvmm_even"}, {"pyvmm_even": "raise SystemExit(7)"})
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    specs = ["odd:,process=on,restart=on", "other:,process=off"]
    requests = Plugins(["pyvmm-even"]).request_devices([parse_device(spec) for spec in specs])
    machine = view_of(requests)
    pool = DeviceProcesses()
    pool.start(requests, machine)
    device = pool.take("odd0")
    assert device is not None
    bench = Bench(pool, device)
    try:
        first, path = bench.pid, machine.files.directory("odd0")
        expected = f"{path}\nodd0 is odd of pyvmm-odd 1.2\nother0 is other of pyvmm-odd 1.2"
        assert bench.ask("machine") == expected
        os.kill(first, signal.SIGKILL)
        assert bench.ask("machine") == expected
        assert bench.pid != first
        assert path.joinpath("mark").exists()
    finally:
        bench.close()
        machine.files.remove()


def test_request_that_kills_each_process_fails_the_device(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    bench = make("odd:,process=on,restart=on")
    bench.send("die 9")
    bench.driver.run_until(lambda: bench.driver.needs_reset)
    assert sum("a new one replaces it" in line for line in messages(caplog)) == 5


def test_processes_that_ended_are_reaped(make: Callable[..., Bench]) -> None:
    bench = make("odd:,process=on,restart=on")
    pids = []
    for _ in range(3):
        pids.append(bench.pid)
        os.kill(bench.pid, signal.SIGKILL)
        assert bench.ask("echo hello") == "hello"
    pids.append(bench.pid)
    bench.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_nothing_is_left_open(odd: None) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for spec in ("odd:,process=on", "odd:,process=on,restart=on"):
        bench = Bench(*start(spec))
        bench.ask("echo hello")
        os.kill(bench.pid, signal.SIGKILL)
        if "restart" in spec:
            bench.ask("echo hello")
        else:
            bench.wait_for_failure()
        bench.close()
    for word in ("usage", "bug", "segv"):
        with pytest.raises((PyvmmError, DeviceError)):
            start(f"odd:{word},process=on")
    assert len(os.listdir("/proc/self/fd")) == before
    assert not os.path.exists(f"/proc/self/task/{os.getpid()}/children") or not (
        Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    )

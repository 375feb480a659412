"""A program's machines: started, waited for, talked to and ended, from any thread."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pyvmm import Machine, MachineConfig, Plugins
from pyvmm.errors import PyvmmError, UsageError
from pyvmm.exit_reason import End, ExitReason
from pyvmm.machine import MachineEvent
from pyvmm.testing import waiting
from pyvmm.testing.waiting import PATIENCE

from tests.library.conftest import Configure
from tests.system.prepared import TOP


def talk(machine: Machine, word: str = "hello") -> None:
    """Hear the guest's first words, and have it answer."""
    assert machine.console.read_until(b"ready\n", PATIENCE) == b"ready\n"
    machine.console.write(f"{word}\n".encode(), PATIENCE)
    assert machine.console.read_until(b"\n", PATIENCE) == f"you said {word}\n".encode()


def descriptors() -> set[str]:
    gc.collect()  # other tests' exceptions hold on to their machines
    return set(os.listdir("/proc/self/fd"))


def test_a_machine_from_its_start_to_its_end(configure: Configure) -> None:
    with Machine(configure()) as machine:
        states = [machine.state]
        machine.start()
        states.append(machine.state)
        talk(machine)
        machine.console.write(b"poweroff\n")
        reason = machine.wait(PATIENCE)
        assert reason == ExitReason(End.POWEROFF)
        states.append(machine.state)
        assert machine.wait(0) is machine.wait() is reason
        assert machine.console.read(timeout=PATIENCE) == b"bye\n"
        assert machine.console.read(timeout=PATIENCE) == b""
        with pytest.raises(EOFError, match="serial0: the machine ended and has not written b'more'"):
            machine.console.read_until(b"more", PATIENCE)
        with pytest.raises(BrokenPipeError):
            machine.console.write(b"too late")
    assert [*states, machine.state] == ["made", "running", "ended", "closed"]
    assert machine.wait() is reason


def test_output_that_nobody_has_read_is_there_after_the_end(configure: Configure) -> None:
    with Machine(configure()) as machine:
        machine.start()
        machine.console.write(b"flood\npoweroff\n")
        machine.wait(PATIENCE)
    assert machine.console.read_until(b"ready\n") == b"ready\n"
    output = b""
    while data := machine.console.read():
        output += data
    assert output == b"0123456789abcdef" * (96 << 6) + b"bye\n"


def test_the_console_is_what_other_threads_read_and_write(configure: Configure) -> None:
    with Machine(configure()) as machine:
        output: list[bytes] = []

        def read() -> None:
            while data := machine.console.read(1000):
                output.append(data)

        reader = threading.Thread(target=read)
        reader.start()
        machine.start()
        machine.console.write(b"flood\nhello\npoweroff\n")
        assert machine.wait(PATIENCE).end is End.POWEROFF
        reader.join(PATIENCE)
        assert not reader.is_alive()
    assert b"".join(output) == b"ready\n" + b"0123456789abcdef" * (96 << 6) + b"you said hello\nbye\n"
    assert max(map(len, output)) <= 1000


@pytest.mark.parametrize("again", ["run", "start"])
@pytest.mark.parametrize("first", ["run", "start"])
def test_a_machine_runs_once(configure: Configure, first: str, again: str) -> None:
    with Machine(configure(name="web")) as machine:
        machine.console.write(b"poweroff\n")
        getattr(machine, first)()
        with pytest.raises(UsageError) as error:
            getattr(machine, again)()
        assert str(error.value) == "machine 'web' was started before; make another Machine for another run"
        assert machine.wait(PATIENCE).end is End.POWEROFF
    with pytest.raises(UsageError, match="machine 'web' is closed; make another Machine for another run"):
        getattr(machine, again)()


def test_waits_that_cannot_end_are_refused(configure: Configure) -> None:
    with Machine(configure()) as machine:
        with pytest.raises(UsageError, match=r"wait: the machine was not started; call start\(\) first"):
            machine.wait()
        errors: list[UsageError] = []

        def try_on_its_own_thread() -> None:
            for wait in (machine.wait, machine.close):
                with pytest.raises(UsageError) as error:
                    wait()
                errors.append(error.value)
            machine.stop()

        machine.loop.post(try_on_its_own_thread)
        machine.start()
        assert machine.wait(PATIENCE).end is End.QUIT
        assert [str(error).partition(":")[0] for error in errors] == ["wait", "close"]
    with Machine(configure()) as machine:
        pass
    with pytest.raises(UsageError, match="wait: the machine was closed before it ran"):
        machine.wait()


def test_a_wait_and_a_read_have_a_limit(configure: Configure) -> None:
    with Machine(configure(name="web")) as machine:
        machine.start()
        talk(machine)
        with pytest.raises(TimeoutError, match=r"machine 'web' has not ended after 0\.01 s"):
            machine.wait(0.01)
        with pytest.raises(TimeoutError, match=r"serial0: nothing was written in 0\.01 s"):
            machine.console.read(timeout=0.01)
        with pytest.raises(TimeoutError, match=r"serial0: b'you' was not written in 0\.01 s"):
            machine.console.read_until(b"you", timeout=0.01)
        assert machine.state == "running"
        talk_again = b"you said still here\n"
        machine.console.write(b"still here\n")
        assert machine.console.read_until(b"\n", PATIENCE) == talk_again


def test_a_close_ends_the_run_and_leaves_nothing(configure: Configure) -> None:
    before = descriptors()
    for _ in range(3):
        with Machine(configure("rng,process=on", "rng,process=off")) as machine:
            machine.start()
            talk(machine)
        assert machine.wait().end is End.QUIT
        machine.close()
    assert descriptors() == before
    waiting.wait_until(lambda: not any(name.startswith(("vcpu", "machine", "rng")) for name in thread_names()))


def thread_names() -> list[str]:
    names = []
    for task in Path("/proc/self/task").iterdir():
        try:
            names.append((task / "comm").read_text())
        except OSError:
            pass
    return names


def test_a_machine_that_cannot_be_made_leaves_nothing(configure: Configure) -> None:
    before = descriptors()
    with pytest.raises(UsageError, match="/nowhere"):
        Machine(configure("rng,process=on", "console:stream", "block:/nowhere,process=off"))
    assert descriptors() == before


def test_devices_may_be_any_iterable(guest: Path) -> None:
    texts = ["serial:stream", "rng", "rng"]
    [*requests] = Plugins().request_devices(texts)
    for devices in (iter(texts), iter(requests), tuple(texts)):
        with Machine(MachineConfig(guest, memory=32 << 20, devices=devices)) as machine:  # type: ignore[arg-type]
            assert [transport.name for transport in machine.devices.transports()] == ["rng0", "rng1"]


def test_a_start_that_fails_is_raised_and_ends_the_machine(configure: Configure) -> None:
    with Machine(configure(cmdline="x" * 5000)) as machine:
        with pytest.raises(PyvmmError) as error:
            machine.start()
        assert "command line" in str(error.value)
        assert machine.state == "ended"
        with pytest.raises(PyvmmError):
            machine.wait()


def test_what_a_run_raises_is_raised_by_wait(configure: Configure) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    with Machine(configure()) as machine:
        machine.start()
        talk(machine)
        machine.loop.post(fail)
        with pytest.raises(ZeroDivisionError, match="a bug"):
            machine.wait(PATIENCE)
        assert list(machine.events())[-1].reason is not None


def test_events_in_their_order(configure: Configure) -> None:
    heard: list[MachineEvent] = []
    with Machine(configure()) as machine:
        machine.subscribe(heard.append)
        forget = machine.subscribe(lambda event: 1 // 0)
        early = machine.events()
        machine.start()
        forget()
        assert next(early) == MachineEvent("console_connected", "serial0")
        assert next(early) == MachineEvent("started")
        machine.stop()
        reason = machine.wait(PATIENCE)
        assert list(early) == [MachineEvent("ended", reason=reason)]
        everything = [
            MachineEvent("console_connected", "serial0"),
            MachineEvent("started"),
            MachineEvent("ended", reason=reason),
        ]
        assert heard == list(machine.events()) == everything
    with Machine(configure()) as machine:
        events = machine.events()
    assert list(events) == [MachineEvent("ended")]


def test_a_client_of_a_console_s_socket_is_an_event(configure: Configure, tmp_path: Path) -> None:
    import socket

    config = configure(f"console,unix={tmp_path / 'socket'}")
    with Machine(config) as machine, socket.socket(socket.AF_UNIX) as client:
        machine.start()
        client.connect(str(tmp_path / "socket"))
        events = machine.events()
        while next(events) != MachineEvent("console_connected", "console0"):
            pass


def test_each_stream_is_a_console_of_its_own(configure: Configure) -> None:
    with Machine(configure("serial:stream", "console:stream")) as machine:
        assert list(machine.consoles) == ["serial0", "serial1", "console0"]
        assert machine.console is machine.consoles["serial0"]
        machine.start()
        talk(machine)


def test_a_machine_without_a_stream_has_no_console(guest: Path) -> None:
    with Machine(MachineConfig(guest, memory=32 << 20)) as machine:
        assert machine.consoles == {}
        with pytest.raises(UsageError, match="console: no device has a stream; add serial:stream or console:stream"):
            _ = machine.console


def test_a_graceful_stop_without_a_driver_that_listens_ends_the_run(configure: Configure) -> None:
    with Machine(configure("i8042")) as machine:
        machine.start()
        talk(machine)
        assert machine.stop(graceful=PATIENCE) is False
        assert machine.wait(PATIENCE).end is End.QUIT


@pytest.mark.parametrize("obeys", [True, False])
def test_a_graceful_stop_asks_the_guest_and_ends_one_that_does_not_obey(configure: Configure, obeys: bool) -> None:
    from pyvmm.bus import BusDevice, BusRange, Placement

    class Button(BusDevice):
        placements = (Placement(ports=BusRange(0x700, 1)),)

        def request_shutdown(self) -> bool:
            if obeys:
                machine.console.write(b"poweroff\n")
            return True

    with Machine(configure()) as machine:
        machine.add_device(Button(), "button")
        machine.start()
        talk(machine)
        assert machine.stop(graceful=PATIENCE if obeys else 0.01) is True
        assert machine.wait(PATIENCE).end is (End.POWEROFF if obeys else End.QUIT)


def in_threads(*functions: Callable[[], object]) -> None:
    """Call each of ``functions`` on a thread of its own, and raise what one of them raises."""
    errors: list[BaseException] = []

    def guarded(function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_machines_of_several_threads_run_at_the_same_time(configure: Configure) -> None:
    together = threading.Barrier(4, timeout=PATIENCE)

    def work(name: str, process: str) -> None:
        with Machine(configure(f"rng,process={process}", name=name)) as machine:
            machine.start()
            talk(machine, name)
            together.wait()
            machine.console.write(b"poweroff\n")
            assert machine.wait(PATIENCE).end is End.POWEROFF

    in_threads(
        *(lambda name=f"m{at}", process=where: work(name, process) for at, where in enumerate(("on", "off") * 2))
    )


def test_a_machine_outlives_the_thread_that_made_and_started_it(configure: Configure) -> None:
    made: list[Machine] = []
    ids: list[int] = []

    def make() -> None:
        ids.append(threading.get_native_id())
        machine = Machine(configure("rng,process=on"))
        made.append(machine)
        machine.start()
        talk(machine)

    in_threads(make)
    waiting.wait_until(lambda: not os.path.exists(f"/proc/self/task/{ids[0]}"))
    [machine] = made
    try:
        [rng] = [transport.device for transport in machine.devices.transports()]
        process = rng._source.child  # type: ignore[attr-defined]
        machine.console.write(b"still there\n")
        assert machine.console.read_until(b"\n", PATIENCE) == b"you said still there\n"
        assert not process.ended, process.outcome
    finally:
        in_threads(machine.close)
    assert process.outcome == "ended with status 0"


CTRL_C = """
import sys
from pyvmm import Machine, MachineConfig
with Machine(MachineConfig(sys.argv[1], memory=32 << 20, devices=["serial:stream", "rng,process=on"])) as machine:
    machine.start()
    machine.console.read_until(b"ready\\n")
    print("ready", flush=True)
    machine.wait()
"""


def test_ctrl_c_ends_a_wait_and_the_machine(guest: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CTRL_C, str(guest)], cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=PATIENCE)
    assert errors.rstrip().endswith(b"KeyboardInterrupt"), errors.decode()
    assert program.returncode == -signal.SIGINT

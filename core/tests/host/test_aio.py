"""The engine for file I/O, with real files, on each backend."""

from __future__ import annotations

import errno
import gc
import os
import random
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyvmm._native import ffi, lib
from pyvmm.errors import HostError
from pyvmm.host.aio import IoEngine, IoEngineFullError, IoFile, direct_alignment
from pyvmm.testing.waiting import PATIENCE, wait_until

CONTENT = random.Random(3).randbytes(1 << 20)


def wait(engine: IoEngine) -> None:
    """Let the engine finish what is under way, as an event loop would."""
    engine.submit()
    while engine.in_use:
        assert select.select([engine.fd], [], [], PATIENCE)[0], f"no result of {engine.in_use} requests"
        engine.dispatch()


def thread_count() -> int:
    """The engines' threads in this process."""
    count = 0
    for task in os.listdir("/proc/self/task"):
        try:
            count += Path(f"/proc/self/task/{task}/comm").read_text() == "pyvmm-aio\n"
        except OSError:
            pass  # gone meanwhile
    return count


def wait_until_no_threads() -> None:
    """Wait until the threads are gone: one that was joined is in /proc for a moment longer."""
    wait_until(lambda: not thread_count(), lambda: f"{thread_count()} threads")


@pytest.fixture(params=["io_uring", "threads"])
def engine(request: pytest.FixtureRequest) -> Iterator[IoEngine]:
    """An engine that leaves no descriptor and no thread behind."""
    gc.collect()  # what other tests left to be collected is not to go in between
    before = len(os.listdir("/proc/self/fd"))
    try:
        made = IoEngine(64, backend=request.param)
    except HostError as error:
        pytest.skip(str(error))
    with made:
        assert made.backend == request.param
        yield made
    assert len(os.listdir("/proc/self/fd")) == before
    wait_until_no_threads()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[IoFile]:
    """1 MiB of a file."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    yield IoFile(fd)
    os.close(fd)


@pytest.fixture(params=[True, False], ids=["cached", "handed-over"])
def any_file(file: IoFile, request: pytest.FixtureRequest) -> IoFile:
    """The file, with reads tried at once and not."""
    file.native.nowait = request.param
    return file


def test_read(engine: IoEngine, any_file: IoFile) -> None:
    results: list[int] = []
    parts = [memoryview(bytearray(length)) for length in (1, 4095, 10_000, 512)]
    engine.preadv(any_file, parts, 777, results.append)
    wait(engine)
    assert results == [14608]
    assert b"".join(parts) == CONTENT[777 : 777 + 14608]


def test_write(engine: IoEngine, file: IoFile) -> None:
    results: list[int] = []
    engine.pwritev(file, [b"one", bytearray(b"two"), memoryview(b"three")], 5, results.append)
    wait(engine)
    assert results == [11]
    assert os.pread(file.fd, 20, 0) == CONTENT[:5] + b"onetwothree" + CONTENT[16:20]


def test_more_buffers_than_one_system_call_takes(engine: IoEngine, any_file: IoFile) -> None:
    results: list[int] = []
    parts = [memoryview(bytearray(300)) for _ in range(3000)]
    engine.preadv(any_file, parts, 1, results.append)
    wait(engine)
    assert results == [900_000] and b"".join(parts) == CONTENT[1:900_001]
    engine.pwritev(any_file, [part[::-1].tobytes() for part in parts], 0, results.append)
    wait(engine)
    assert results == [900_000] * 2
    assert os.pread(any_file.fd, 900_000, 0) == b"".join(part[::-1].tobytes() for part in parts)


def test_end_of_file(engine: IoEngine, any_file: IoFile) -> None:
    results: dict[str, int] = {}
    for name, offset in (("across", len(CONTENT) - 100), ("at", len(CONTENT)), ("behind", 1 << 40)):
        parts = [memoryview(bytearray(60)) for _ in range(3)]
        engine.preadv(any_file, parts, offset, lambda result, name=name: results.update({name: result}))  # type: ignore[misc]
    wait(engine)
    assert results == {"across": 100, "at": 0, "behind": 0}


def test_nothing_to_move(engine: IoEngine, file: IoFile) -> None:
    results: list[int] = []
    engine.preadv(file, [], 0, results.append)
    engine.pwritev(file, [b""], 0, results.append)
    wait(engine)
    assert results == [0, 0]


def test_fdatasync_and_fallocate(engine: IoEngine, file: IoFile) -> None:
    results: list[int] = []
    engine.fdatasync(file, results.append)
    wait(engine)
    engine.fallocate(file, 0, 0, 2 << 20, results.append)
    wait(engine)
    assert results == [0, 0]
    assert os.fstat(file.fd).st_size == 2 << 20


@pytest.mark.parametrize(
    ("path", "flags", "what", "error"),
    [
        ("/dev/full", os.O_RDWR, "write", errno.ENOSPC),
        ("/", os.O_RDONLY, "read", errno.EISDIR),
        ("/dev/null", os.O_RDONLY, "write", errno.EBADF),
        ("/dev/zero", os.O_RDWR, "fallocate", errno.ENODEV),
        ("/proc/self/status", os.O_RDONLY, "sync", errno.EINVAL),
    ],
)
def test_errors_are_those_of_the_system_call(engine: IoEngine, path: str, flags: int, what: str, error: int) -> None:
    results: list[int] = []
    fd = os.open(path, flags)
    target = IoFile(fd)
    match what:
        case "write":
            engine.pwritev(target, [b"x", b"y"], 0, results.append)
        case "read":
            engine.preadv(target, [bytearray(1)], 0, results.append)
        case "fallocate":
            engine.fallocate(target, 0, 0, 1, results.append)
        case _:
            engine.fdatasync(target, results.append)
    wait(engine)
    os.close(fd)
    assert results == [-error]


def test_closed_descriptor(engine: IoEngine) -> None:
    results: list[int] = []
    engine.preadv(IoFile(-1), [bytearray(1)], 0, results.append)
    wait(engine)
    assert results == [-errno.EBADF]


def test_partial_write_goes_on_where_it_stopped(engine: IoEngine, tmp_path: Path) -> None:
    """A file that can grow to an odd size only: the first call writes a part, the second hears why (setrlimit(2))."""
    code = f"""
import errno, os, resource, select, signal
from pyvmm.host.aio import IoEngine, IoFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
fd = os.open({str(tmp_path / "limited")!r}, os.O_RDWR | os.O_CREAT)
results = []
with IoEngine(4, backend={engine.backend!r}) as engine:
    engine.pwritev(IoFile(fd), [b"a" * 300, b"b" * 600, b"c" * 300], 0, results.append)
    engine.submit()
    while not results:
        select.select([engine.fd], [], [])
        engine.dispatch()
assert results == [-errno.EFBIG], results
assert os.pread(fd, 2000, 0) == b"a" * 300 + b"b" * 600 + b"c" * 100
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


@pytest.mark.parametrize("step", [1, 3, 10, 99, 512, 4000])
def test_advancing_never_replays(step: int) -> None:
    """Whatever a system call moves, the next one starts at the byte after: every byte once, in order."""
    target = ffi.new("uint8_t[]", 4000)
    iov = ffi.new("struct iovec[]", 40)
    for i in range(40):
        iov[i].iov_base, iov[i].iov_len = target + 100 * i, 100
    seen = bytearray()
    request = ffi.new("struct pyvmm_aio_request *")
    request.op, request.length, request.iov, request.iov_count = lib.PYVMM_AIO_WRITE, 4000, iov, 40
    finished = 0
    while not finished:
        at = int(ffi.cast("uintptr_t", request.iov.iov_base)) - int(ffi.cast("uintptr_t", target))
        assert at == request.done == len(seen)
        moved = min(step, 4000 - at)
        seen += bytes(moved)
        finished = lib.pyvmm_aio_advance(request, moved, 0)
    assert (len(seen), request.result) == (4000, 4000)


def test_many_requests_each_with_its_own_result(engine: IoEngine, any_file: IoFile) -> None:
    results: dict[int, int] = {}
    buffers = [bytearray(512) for _ in range(64)]
    for _ in range(5):
        for i, buffer in enumerate(buffers):
            engine.preadv(any_file, [buffer], 512 * i, lambda result, i=i: results.update({i: result}))  # type: ignore[misc]
        wait(engine)
        assert results == dict.fromkeys(range(64), 512)
        assert b"".join(buffers) == CONTENT[: 64 * 512]
        results.clear()


def test_full_engine(engine: IoEngine, file: IoFile) -> None:
    results: list[int] = []
    for _ in range(64):
        engine.preadv(file, [bytearray(1)], 0, results.append)
    with pytest.raises(IoEngineFullError, match="64 requests"):
        engine.preadv(file, [bytearray(1)], 0, results.append)
    wait(engine)
    assert results == [1] * 64
    engine.preadv(file, [bytearray(1)], 0, results.append)
    wait(engine)


def test_callback_that_readies_more(engine: IoEngine, any_file: IoFile) -> None:
    results: list[int] = []

    def again(result: int) -> None:
        results.append(result)
        if len(results) < 200:
            engine.preadv(any_file, [bytearray(8)], 0, again)

    engine.preadv(any_file, [bytearray(8)], 0, again)
    wait(engine)
    assert results == [8] * 200


def test_callback_that_raises_does_not_stop_the_others(engine: IoEngine, file: IoFile) -> None:
    results: list[int] = []

    def failing(result: int) -> None:
        raise RuntimeError("mine")

    for on_done in (results.append, failing, results.append):
        engine.preadv(file, [bytearray(8)], 0, on_done)
    with pytest.raises(RuntimeError, match="mine"):
        wait(engine)
    assert results == [8, 8] and engine.in_use == 0


def test_buffers_are_held_until_the_result(engine: IoEngine, file: IoFile) -> None:
    buffer = bytearray(8)
    engine.preadv(file, [buffer], 0, lambda result: None)
    with pytest.raises(BufferError):
        buffer.clear()
    wait(engine)
    buffer.clear()


def test_read_only_buffer_is_refused_for_reading(engine: IoEngine, file: IoFile) -> None:
    with pytest.raises((BufferError, TypeError)):
        engine.preadv(file, [b"constant"], 0, lambda result: None)
    with pytest.raises((BufferError, TypeError)):
        engine.preadv(file, [memoryview(b"constant")], 0, lambda result: None)
    assert engine.in_use == 0


def test_drain_calls_back(engine: IoEngine, any_file: IoFile) -> None:
    results: list[int] = []
    for i in range(64):
        engine.preadv(any_file, [bytearray(4096)], 4096 * i, results.append)
    engine.drain()
    assert results == [4096] * 64 and engine.in_use == 0


def test_cancel_before_the_start(engine: IoEngine, file: IoFile) -> None:
    results: list[int] = []
    engine.pwritev(file, [b"never"], 0, results.append)
    engine.drain(cancel=True)
    assert results == [-errno.ECANCELED]
    assert os.pread(file.fd, 5, 0) == CONTENT[:5]
    engine.preadv(file, [bytearray(3)], 0, results.append)
    wait(engine)
    assert results == [-errno.ECANCELED, 3]


def test_cancel_what_is_under_way(engine: IoEngine, file: IoFile) -> None:
    results: list[int] = []
    file.native.nowait = False
    for round_ in range(20):
        for i in range(64):
            engine.preadv(file, [bytearray(4096)], 4096 * i, results.append)
        engine.submit()
        engine.drain(cancel=True)
        assert len(results) == 64 * (round_ + 1) and engine.in_use == 0
    assert set(results) <= {4096, -errno.ECANCELED}


def test_close_with_requests_under_way(file: IoFile) -> None:
    for backend in ("io_uring", "threads"):
        try:
            engine = IoEngine(64, backend=backend)
        except HostError:
            continue
        for i in range(64):
            engine.pwritev(file, [CONTENT[i * 4096 : i * 4096 + 4096]], 4096 * i, lambda result: None)
        engine.submit()
        engine.close()
        engine.close()
    assert os.pread(file.fd, 1 << 20, 0) == CONTENT


def test_readable_only_while_there_is_something_to_do(engine: IoEngine, file: IoFile) -> None:
    assert not select.select([engine.fd], [], [], 0)[0]
    file.native.nowait = False
    for _ in range(100):
        engine.preadv(file, [bytearray(8)], 0, lambda result: None)
        wait(engine)
        assert not select.select([engine.fd], [], [], 0)[0]


def test_read_from_the_page_cache_is_answered_at_once(engine: IoEngine, file: IoFile) -> None:
    results: list[int] = []
    os.pread(file.fd, 4096, 0)
    engine.preadv(file, [bytearray(4096)], 0, results.append)
    engine.submit()
    if not file.native.nowait:
        pytest.skip("the file system has no RWF_NOWAIT")
    assert results == [4096]


def test_unaligned_transfers_take_the_other_descriptor(engine: IoEngine, tmp_path: Path) -> None:
    first, second = tmp_path / "aligned", tmp_path / "unaligned"
    first.write_bytes(b"A" * 8192)
    second.write_bytes(b"U" * 8192)
    fds = [os.open(path, os.O_RDWR) for path in (first, second)]
    file = IoFile(fds[0], cached=False, unaligned_fd=fds[1], memory_alignment=512, offset_alignment=4096)
    area = memoryview(bytearray(16384))
    start = -int(ffi.cast("uintptr_t", ffi.from_buffer(area))) % 4096
    area = area[start : start + 8192]
    cases = {
        "aligned": ([area[:4096]], 4096, b"A"),
        "small buffers": ([area[:512], area[512:4096]], 0, b"A"),
        "offset": ([area[:4096]], 512, b"U"),
        "length": ([area[:512]], 0, b"U"),
        "address": ([area[256:4352]], 0, b"U"),
        "inner length": ([area[:100], area[512:4508]], 0, b"U"),
    }
    for name, (buffers, offset, expected) in cases.items():
        engine.preadv(file, buffers, offset, lambda result: None)
        wait(engine)
        assert set(b"".join(buffers)) == set(expected), name
    for fd in fds:
        os.close(fd)


def test_alignment_must_be_a_power_of_two() -> None:
    for wrong in (0, 3, -4):
        with pytest.raises(ValueError, match="power of two"):
            IoFile(0, memory_alignment=wrong)


def test_direct_alignment(file: IoFile) -> None:
    alignment = direct_alignment(file.fd)
    assert alignment is None or all(number & (number - 1) == 0 for number in alignment)
    assert direct_alignment(-1) is None


@pytest.mark.parametrize(("depth", "threads"), [(0, 4), (4097, 4), (4, 65)])
def test_sizes_that_cannot_be(depth: int, threads: int) -> None:
    with pytest.raises(ValueError, match="no engine"):
        IoEngine(depth, backend="threads", threads=threads)


def test_backend_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_AIO", "threads")
    with IoEngine() as engine:
        assert engine.backend == "threads"
    monkeypatch.setenv("PYVMM_AIO", "carrier-pigeons")
    with pytest.raises(HostError, match="carrier-pigeons"):
        IoEngine()


def test_falls_back_to_threads_with_one_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """With no descriptor's worth of io_uring: the kernel refuses it where a seccomp filter says EPERM."""
    monkeypatch.delenv("PYVMM_AIO", raising=False)
    monkeypatch.setattr("pyvmm.host.aio._told", False)

    class Refusing:
        def __getattr__(self, name: str) -> object:
            return getattr(lib, name)

        def pyvmm_aio_new(self, depth: int, threads: int, error: object) -> object:
            if threads == 0:
                error[0] = errno.EPERM  # type: ignore[index]
                return ffi.NULL
            return lib.pyvmm_aio_new(depth, threads, error)

    monkeypatch.setattr("pyvmm.host.aio.lib", Refusing())
    with caplog.at_level("INFO", "pyvmm.host.aio"):
        for _ in range(2):
            with IoEngine() as engine:
                assert engine.backend == "threads"
        with pytest.raises(HostError, match="io_uring: the host refuses it"):
            IoEngine(backend="io_uring")
    assert len(caplog.records) == 1


def test_threads_are_few_lazy_and_gone_after_close(file: IoFile) -> None:
    with IoEngine(64, backend="threads", threads=3) as engine:
        assert thread_count() == 0
        for _ in range(64):
            engine.fdatasync(file, lambda result: None)
        wait(engine)
        assert 1 <= thread_count() <= 3
    wait_until_no_threads()


def test_threads_take_no_signals(file: IoFile) -> None:
    before = {int(task) for task in os.listdir("/proc/self/task")}
    with IoEngine(4, backend="threads") as engine:
        engine.fdatasync(file, lambda result: None)
        wait(engine)
        for task in {int(task) for task in os.listdir("/proc/self/task")} - before:
            status = Path(f"/proc/self/task/{task}/status").read_text()
            blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
            assert blocked >> (2 - 1) & 1 and blocked >> (15 - 1) & 1  # SIGINT and SIGTERM


def test_forks_copy_can_be_closed(file: IoFile) -> None:
    for backend in ("io_uring", "threads"):
        try:
            engine = IoEngine(4, backend=backend)
        except HostError:
            continue
        engine.fdatasync(file, lambda result: None)
        wait(engine)
        child = os.fork()
        if child == 0:
            try:
                engine.drain()
                engine.close()
                with IoEngine(4, backend=backend) as own:
                    own.fdatasync(file, lambda result: None)
                    wait(own)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        results: list[int] = []
        engine.preadv(file, [bytearray(2)], 0, results.append)
        wait(engine)
        assert results == [2]
        engine.close()


def test_the_gil_is_free_while_the_engine_waits() -> None:
    """A drain that waits for a pipe lets another thread write to it."""
    read_fd, write_fd = os.pipe()
    results: list[int] = []
    with IoEngine(4, backend="threads") as engine:
        # preadv2(2) reads a pipe only with offset -1.
        engine.preadv(IoFile(read_fd, cached=False), [bytearray(4)], 2**64 - 1, results.append)
        engine.submit()
        writer = threading.Timer(0, lambda: os.write(write_fd, b"done"))
        writer.start()
        engine.drain()
        writer.join()
    os.close(read_fd)
    os.close(write_fd)
    assert results == [4]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.integers(0, 5000),
            st.lists(st.integers(1, 700), min_size=1, max_size=8),
            st.integers(0, 255),
        ),
        max_size=20,
    )
)
def test_requests_one_by_one_are_those_of_a_plain_file(
    engine: IoEngine, tmp_path: Path, steps: list[tuple[bool, int, list[int], int]]
) -> None:
    path = tmp_path / "model"
    path.write_bytes(CONTENT[:4000])
    model = bytearray(CONTENT[:4000])
    fd = os.open(path, os.O_RDWR)
    file = IoFile(fd)
    for is_write, offset, lengths, fill in steps:
        results: list[int] = []
        total = sum(lengths)
        if is_write:
            engine.pwritev(file, [bytes([fill]) * length for length in lengths], offset, results.append)
            wait(engine)
            model.extend(bytes(max(0, offset + total - len(model))))
            model[offset : offset + total] = bytes([fill]) * total
            assert results == [total]
        else:
            buffers = [bytearray(length) for length in lengths]
            engine.preadv(file, buffers, offset, results.append)
            wait(engine)
            expected = bytes(model[offset : offset + total])
            assert results == [len(expected)]
            assert b"".join(buffers)[: len(expected)] == expected
    os.close(fd)
    assert path.read_bytes() == model


# --- writes at once


@pytest.fixture
def waiting_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[IoEngine]:
    """As in a device's own process. However long a write takes on a busy machine, the next one is made at once."""
    monkeypatch.setattr(IoEngine, "may_wait", True)
    with IoEngine(64, backend="threads") as made:
        made.native.inline_write_time = 2**64 - 1
        yield made


def write(engine: IoEngine, file: IoFile, length: int, flags: int = 0) -> list[int]:
    """The result, if submitting brought one."""
    results: list[int] = []
    engine.pwritev(file, [b"x" * length], 0, results.append, flags=flags)
    engine.submit()
    at_once = results[:]
    wait(engine)
    assert results == [length]
    return at_once


def test_a_write_into_the_page_cache_is_made_at_once(waiting_engine: IoEngine, file: IoFile) -> None:
    assert write(waiting_engine, file, 4096) == [4096]
    assert os.pread(file.fd, 4097, 0) == b"x" * 4096 + CONTENT[4096:4097]
    assert write(waiting_engine, file, 1 << 20) == [1 << 20]


def test_one_submission_writes_so_much_at_once_and_no_more(waiting_engine: IoEngine, file: IoFile) -> None:
    results: list[int] = []
    for at in range(5):
        waiting_engine.pwritev(file, [bytes([at]) * (300 << 10)], at * (300 << 10), results.append)
    waiting_engine.submit()
    assert waiting_engine.native.inlined == 3
    wait(waiting_engine)
    assert results == [300 << 10] * 5
    assert [os.pread(file.fd, 1, at * (300 << 10)) for at in range(5)] == [bytes([at]) for at in range(5)]


def test_other_writes_are_handed_over(waiting_engine: IoEngine, file: IoFile) -> None:
    assert write(waiting_engine, file, (1 << 20) + 1) == []
    assert write(waiting_engine, file, 4096, os.RWF_DSYNC) == []
    assert write(waiting_engine, IoFile(file.fd, cached=False), 4096) == []


def test_after_one_that_took_long_some_are_handed_over(waiting_engine: IoEngine, file: IoFile) -> None:
    native = waiting_engine.native
    native.inline_write_time = 0  # any write takes longer
    assert write(waiting_engine, file, 4096) == [4096]
    assert native.detained == 256
    assert write(waiting_engine, file, 4096) == []
    assert native.detained == 255
    native.detained = 1
    assert [write(waiting_engine, file, 4096) for _ in range(2)] == [[], [4096]]


def test_an_engine_that_must_not_wait_hands_all_over(engine: IoEngine, file: IoFile) -> None:
    assert engine.native.inline_write == 0


def test_an_error_of_a_write_at_once_is_its_result(waiting_engine: IoEngine, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    fd = os.open(path, os.O_RDONLY)
    results: list[int] = []
    waiting_engine.pwritev(IoFile(fd), [b"x"], 0, results.append)
    waiting_engine.submit()
    assert results == [-errno.EBADF]
    os.close(fd)

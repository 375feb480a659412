"""The same for asyncio: ``await run(…)``, ``await popen(…)``, ``async with Sandbox(…)``.

Each command is served by a thread of its own, as without asyncio, so that both behave in the same way. A task that is
cancelled ends its command, or its machine where it has one of its own, before the cancellation goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading

from pyvmm_run import processes, sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from typing import Any, Self, TypeVar, Unpack

    from pyvmm_run.sandbox import MachineOptions, Options, PopenOptions, RunOptions, StreamOptions

    T = TypeVar("T")

__all__ = ["Process", "Sandbox", "popen", "read_file", "run", "write_file"]


async def run(args: Sequence[str | bytes], **options: Unpack[Options]) -> subprocess.CompletedProcess[Any]:
    """As :func:`pyvmm_run.run`."""
    machine, others = sandbox.split(options)
    sync = sandbox.Sandbox(**machine)
    return await _in_thread(lambda: sandbox.run_once(sync, args, **others), sync.abort)


async def popen(args: Sequence[str | bytes], **options: Unpack[PopenOptions]) -> Process:
    """As :func:`pyvmm_run.popen`."""
    machine, others = sandbox.split(options)
    sync = sandbox.Sandbox(**machine)
    return await _popen(sync, args, sync.close, sync.abort, others)


async def read_file(path: str, *, timeout: float | None = None, **options: Unpack[MachineOptions]) -> bytes:
    """As :func:`pyvmm_run.read_file`."""
    async with Sandbox(**options) as machine:
        return await machine.read_file(path, timeout=timeout)


async def write_file(
    path: str, data: bytes | str, *, timeout: float | None = None, **options: Unpack[MachineOptions]
) -> None:
    """As :func:`pyvmm_run.write_file`."""
    options.setdefault("changes", "kept")
    async with Sandbox(**options) as machine:
        await machine.write_file(path, data, timeout=timeout)


class Sandbox:
    """As :class:`pyvmm_run.Sandbox`.

    >>> async with Sandbox() as machine:  # doctest: +SKIP
    ...     print((await machine.run(["uname", "-a"], capture_output=True, text=True)).stdout)
    """

    def __init__(self, *, of: sandbox.Sandbox | None = None, **options: Unpack[MachineOptions]) -> None:
        """``of`` is a sandbox that exists already, in place of ``options`` for one."""
        self.sync = of or sandbox.Sandbox(**options)
        """The sandbox without asyncio."""

    async def start(self, *, timeout: float | None = None) -> Self:
        """As :meth:`pyvmm_run.Sandbox.start`; a cancelled start closes the sandbox."""
        await _in_thread(lambda: self.sync.start(timeout=timeout), self.sync.abort)
        return self

    async def run(self, args: Sequence[str | bytes], **options: Unpack[RunOptions]) -> subprocess.CompletedProcess[Any]:
        """As :meth:`pyvmm_run.Sandbox.run`."""
        abort = processes.Abort()
        return await _in_thread(lambda: processes.run(self.sync, args, abort=abort, **options), abort)

    async def popen(self, args: Sequence[str | bytes], **options: Unpack[StreamOptions]) -> Process:
        """As :meth:`pyvmm_run.Sandbox.popen`."""
        return await _popen(self.sync, args, lambda: None, lambda: None, options)

    async def read_file(self, path: str | os.PathLike[str], *, timeout: float | None = None) -> bytes:
        """As :meth:`pyvmm_run.Sandbox.read_file`."""
        abort = processes.Abort()
        return await _in_thread(lambda: processes.read_file(self.sync, str(path), timeout=timeout, abort=abort), abort)

    async def write_file(
        self, path: str | os.PathLike[str], data: bytes | str, *, timeout: float | None = None
    ) -> None:
        """As :meth:`pyvmm_run.Sandbox.write_file`."""
        abort = processes.Abort()
        await _in_thread(lambda: processes.write_file(self.sync, str(path), data, timeout=timeout, abort=abort), abort)

    async def close(self) -> None:
        """As :meth:`pyvmm_run.Sandbox.close`."""
        await _in_thread(self.sync.close, lambda: None)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Process:
    """A command that runs, like :class:`asyncio.subprocess.Process`."""

    def __init__(
        self,
        process: processes.Popen,
        ended: asyncio.Event,
        stdin: asyncio.StreamWriter | None,
        stdout: asyncio.StreamReader | None,
        stderr: asyncio.StreamReader | None,
    ) -> None:
        self._process = process
        self._ended = ended
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr

    @property
    def returncode(self) -> int | None:
        """The status where the command has ended."""
        return self._process.returncode

    async def wait(self) -> int:
        """The status, when the command has ended. Raises what ended it where it has none."""
        await self._ended.wait()
        return self._process.wait()

    async def communicate(self, input: bytes | None = None) -> tuple[bytes | None, bytes | None]:
        """Send ``input``, read all output, and wait for the end."""

        async def write() -> None:
            if self.stdin is not None:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.stdin.write(input or b"")
                    await self.stdin.drain()
                self.stdin.close()

        async def read(stream: asyncio.StreamReader | None) -> bytes | None:
            return None if stream is None else await stream.read()

        _, out, err = await asyncio.gather(write(), read(self.stdout), read(self.stderr))
        await self.wait()
        return out, err

    def send_signal(self, number: int) -> None:
        """As :meth:`pyvmm_run.Popen.send_signal`."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()


async def _popen(
    machine: sandbox.Sandbox,
    args: Sequence[str | bytes],
    on_end: Callable[[], object],
    abort: Callable[[], object],
    options: Any,
) -> Process:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def tell() -> None:
        on_end()
        _call(loop, ended.set)

    def start() -> processes.Popen:
        try:
            return processes.Popen(machine, args, on_end=tell, **options)
        except BaseException:
            on_end()
            raise

    process = await _in_thread(start, abort)
    stdin = None
    if process.stdin is not None:
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, process.stdin)
        stdin = asyncio.StreamWriter(transport, protocol, None, loop)
    return Process(process, ended, stdin, await _reader(process.stdout), await _reader(process.stderr))


async def _reader(file: Any) -> asyncio.StreamReader | None:
    if file is None:
        return None
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    return reader


async def _in_thread(function: Callable[[], T], abort: Callable[[], object]) -> T:
    """What ``function`` returns, which runs on a thread; where this task is cancelled, ``abort`` has it end soon."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        try:
            result = function()
        except BaseException as error:
            failure = error
            _call(loop, lambda: finish(None, failure))
        else:
            _call(loop, lambda: finish(result, None))

    threading.Thread(target=work, name="pyvmm-run", daemon=True).start()
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        abort()
        with contextlib.suppress(BaseException):
            await future
        raise


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    with contextlib.suppress(RuntimeError):  # a loop that was closed meanwhile
        loop.call_soon_threadsafe(function)

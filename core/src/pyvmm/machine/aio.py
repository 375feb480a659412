"""The asyncio twin of :class:`~pyvmm.machine.Machine`. It behaves as that does; what waits there is awaited here."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, TypeVar

from pyvmm.errors import HostError, UsageError
from pyvmm.machine.console import CHUNK, Console, Use
from pyvmm.machine.life import MAX_EVENTS, MachineEvent
from pyvmm.machine.machine import Machine
from pyvmm.startup.threads import begin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from typing import Self

    from pyvmm.exit_reason import ExitReason
    from pyvmm.machine.config import MachineConfig
    from pyvmm.machine.life import State

T = TypeVar("T")

__all__ = ["AsyncConsole", "AsyncMachine"]


class AsyncConsole:
    """The asyncio twin of :class:`~pyvmm.machine.Console`. One task may read while another one writes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.device = console.device
        """The id of the device."""

    async def read(self, size: int = CHUNK) -> bytes:
        """As :meth:`Console.read`. For a limit in time there is ``asyncio.timeout()``."""
        return self._console.take(size) or await self._receive(size)

    async def read_until(self, marker: bytes) -> bytes:
        """As :meth:`Console.read_until`."""
        while (found := self._console.take_until(marker)) is None:
            self._console.keep(marker, await self._receive(CHUNK))
        return found

    async def write(self, data: bytes) -> None:
        """As :meth:`Console.write`."""
        view, loop = memoryview(data), asyncio.get_running_loop()
        with Use(self._console):
            while view and not self._console.closed:
                try:
                    view = view[os.write(self._console.writing, view) :]
                except BlockingIOError:
                    await _ready(loop.add_writer, loop.remove_writer, self._console.writing)
        if view:
            raise self._console.gone()

    def close(self) -> None:
        """As :meth:`Console.close`."""
        self._console.close()

    async def _receive(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        with Use(self._console):
            while not self._console.closed:
                try:
                    return os.read(self._console.reading, size)
                except BlockingIOError:
                    await _ready(loop.add_reader, loop.remove_reader, self._console.reading)
        return self._console.take_tail(size)


class AsyncMachine:
    """A virtual machine for an asyncio program: ``async with AsyncMachine(config) as machine: …``

    The machine is made, started and closed on threads, so that the program's event loop never waits for it. ``async
    with Machine(config)`` gives the same object; that machine is made where it is written, which takes some
    milliseconds, or some hundred for devices with processes of their own.
    """

    def __init__(self, config: MachineConfig | Machine) -> None:
        """The machine is made by ``async with``."""
        self._config = config
        self._machine: Machine | None = config if isinstance(config, Machine) else None

    @property
    def machine(self) -> Machine:
        """The machine itself. Its methods that wait hold up the event loop."""
        if self._machine is None:
            raise UsageError("the machine is not made yet; use it within 'async with'")
        return self._machine

    @property
    def name(self) -> str:
        """As :attr:`Machine.name`."""
        return self.machine.name

    @property
    def state(self) -> State:
        """As :attr:`Machine.state`."""
        return self.machine.state

    @property
    def console(self) -> AsyncConsole:
        """As :attr:`Machine.console`."""
        return AsyncConsole(self.machine.console)

    @property
    def consoles(self) -> Mapping[str, AsyncConsole]:
        """As :attr:`Machine.consoles`."""
        return {device: AsyncConsole(console) for device, console in self.machine.consoles.items()}

    async def start(self) -> None:
        """As :meth:`Machine.start`."""
        await _on_a_thread(self.machine.start)

    async def wait(self, timeout: float | None = None) -> ExitReason:
        """As :meth:`Machine.wait`."""
        life = self.machine._life
        if life.state != "made":
            ended = asyncio.Event()
            forget = life.at_end(_from_any_thread(lambda: ended.set()))
            try:
                async with asyncio.timeout(timeout):
                    await ended.wait()
            except TimeoutError:
                raise life.timeout(timeout) from None
            finally:
                forget()
        return life.wait(0)

    def stop(self, reason: ExitReason | None = None, *, graceful: float | None = None) -> bool:
        """As :meth:`Machine.stop`, which does not wait either."""
        return self.machine.stop(reason, graceful=graceful)

    async def close(self) -> None:
        """As :meth:`Machine.close`. It closes the machine also when it is cancelled, and is cancelled then."""
        await _on_a_thread(self.machine.close)

    async def events(self) -> AsyncIterator[MachineEvent]:
        """As :meth:`Machine.events`."""
        queue: asyncio.Queue[MachineEvent] = asyncio.Queue()

        def put(event: MachineEvent) -> None:
            if event.kind == "ended" or queue.qsize() < MAX_EVENTS:
                queue.put_nowait(event)

        forget = self.machine._life.listen(_from_any_thread(put), from_first=True)
        try:
            while True:
                event = await queue.get()
                yield event
                if event.kind == "ended":
                    return
        finally:
            forget()

    def subscribe(self, listener: Callable[[MachineEvent], object]) -> Callable[[], None]:
        """As :meth:`Machine.subscribe`, but the call comes on the program's event loop."""
        return self.machine.subscribe(_from_any_thread(listener))

    async def __aenter__(self) -> Self:
        if not isinstance(self._config, Machine):
            config = self._config
            self._machine = await _on_a_thread(lambda: Machine(config), undo=Machine.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _ready(add: Callable[..., object], remove: Callable[[int], object], fd: int) -> None:
    """Wait until ``fd`` is ready for what the event loop's methods ``add`` and ``remove`` watch."""
    ready = asyncio.Event()
    add(fd, ready.set)
    try:
        await ready.wait()
    finally:
        remove(fd)


def _from_any_thread(function: Callable[..., object]) -> Callable[..., None]:
    """A function for any thread that has ``function`` called on the running event loop."""
    loop = asyncio.get_running_loop()

    def call(*arguments: object) -> None:
        try:
            loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            pass  # the program's event loop is closed, and nobody waits any more

    return call


async def _on_a_thread(function: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
    """Call ``function`` on a thread of its own; its result or error.

    If the task is cancelled, it waits for ``function`` all the same, and then for ``undo`` of the result. asyncio's own
    threads are few, and machines can be many.
    """
    done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    set_result, set_exception = _from_any_thread(_settle), _from_any_thread(_settle)

    def run() -> None:
        try:
            result = function()
        except BaseException as error:
            set_exception(done, None, error)
        else:
            set_result(done, result, None)

    try:
        begin(run, "pyvmm-asyncio")
    except HostError:
        run()  # without a thread, the event loop has to wait
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        while not done.done():
            try:
                await asyncio.wait([done])
            except asyncio.CancelledError:
                pass
        if undo is not None and done.exception() is None:
            made = done.result()
            await _on_a_thread(lambda: undo(made))
        raise


def _settle(future: asyncio.Future[T], result: T, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)

"""A machine that runs commands, kept warm between them; and one for a single command."""

from __future__ import annotations

import subprocess
import time

from pyvmm_run import processes
from pyvmm_run.guest_machine import GuestMachine
from pyvmm_run.processes import Popen

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from typing import Any, Literal, TypedDict, Unpack

    class MachineOptions(TypedDict, total=False):
        """The options of a :class:`Sandbox`."""

        image: str | os.PathLike[str] | None
        root: str | os.PathLike[str] | None
        volumes: Sequence[str]
        changes: Literal["refused", "discarded", "kept"]
        memory: int
        cpus: int
        net: bool
        kernel: str | os.PathLike[str] | None
        hostname: str
        console: str | os.PathLike[str] | None

    class StreamOptions(TypedDict, total=False):
        """The options of :meth:`Sandbox.popen`."""

        stdin: Any
        stdout: Any
        stderr: Any
        text: bool
        env: Mapping[str, str] | None
        cwd: str

    class RunOptions(StreamOptions, total=False):
        """The options of :meth:`Sandbox.run`."""

        input: bytes | str | None
        capture_output: bool
        timeout: float | None
        check: bool

    class Options(MachineOptions, RunOptions, total=False):
        """The options of :func:`run`."""

    class PopenOptions(MachineOptions, StreamOptions, total=False):
        """The options of :func:`popen`."""


_MACHINE = ("image", "root", "volumes", "changes", "memory", "cpus", "net", "kernel", "hostname", "console")


class Sandbox(GuestMachine):
    """A virtual machine that runs commands, one after the other or several at once.

    >>> with Sandbox() as sandbox:  # doctest: +SKIP
    ...     print(sandbox.run(["uname", "-a"], capture_output=True, text=True).stdout)

    Its root file system is the host's own, read-only, or ``root``, a directory of the host, or ``image``, a file with a
    file system. Methods can be called from several threads at once. Raises :class:`~pyvmm.errors.PyvmmError` where the
    machine cannot start or ends too early.
    """

    def run(self, args: Sequence[str | bytes], **options: Unpack[RunOptions]) -> subprocess.CompletedProcess[Any]:
        """Run a command to its end, as :func:`subprocess.run` does, with its options ``input``, ``capture_output``,
        ``stdin`` (by default DEVNULL), ``stdout``, ``stderr``, ``text``, ``timeout``, ``check``, ``env`` and ``cwd``.

        A command that the guest cannot start raises OSError, and one that takes longer than ``timeout`` seconds
        subprocess.TimeoutExpired, after it was killed.
        """
        return processes.run(self, args, **options)

    def popen(self, args: Sequence[str | bytes], **options: Unpack[StreamOptions]) -> Popen:
        """Start a command, as :class:`subprocess.Popen` does, with its options ``stdin`` (by default DEVNULL),
        ``stdout``, ``stderr``, ``text``, ``env`` and ``cwd``."""
        return Popen(self, args, **options)

    def read_file(self, path: str, *, timeout: float | None = None) -> bytes:
        """The contents of a file in the guest. Raises OSError as the guest's kernel does."""
        return processes.read_file(self, path, timeout=timeout)

    def write_file(self, path: str, data: bytes | str, *, timeout: float | None = None) -> None:
        """Write a file in the guest anew. Raises OSError as the guest's kernel does."""
        processes.write_file(self, path, data, timeout=timeout)


def run(args: Sequence[str | bytes], **options: Unpack[Options]) -> subprocess.CompletedProcess[Any]:
    """Run a command in a machine of its own: the options are those of :class:`Sandbox` and of :meth:`Sandbox.run`.

    ``timeout`` counts from the call, with the machine's start.
    """
    machine, others = split(options)
    return run_once(Sandbox(**machine), args, **others)


def run_once(
    machine: Sandbox, args: Sequence[str | bytes], **options: Unpack[RunOptions]
) -> subprocess.CompletedProcess[Any]:
    """Run a command in ``machine`` and close it. The time limit counts from the call."""
    timeout, begin = options.get("timeout"), time.monotonic()
    with machine.start(timeout=timeout) as sandbox:
        if timeout is not None:
            options["timeout"] = max(0.0, timeout - (time.monotonic() - begin))
        try:
            return sandbox.run(args, **options)
        except subprocess.TimeoutExpired as error:
            assert timeout is not None
            error.timeout = timeout
            raise


def popen(args: Sequence[str | bytes], **options: Unpack[PopenOptions]) -> Popen:
    """Start a command in a machine of its own, which ends with it: the options are those of :class:`Sandbox` and of
    :meth:`Sandbox.popen`."""
    machine, others = split(options)
    sandbox = Sandbox(**machine)
    try:
        return Popen(sandbox, args, **others, on_end=sandbox.close)
    except BaseException:
        sandbox.close()
        raise


def read_file(path: str, *, timeout: float | None = None, **options: Unpack[MachineOptions]) -> bytes:
    """The contents of a file in a machine of its own, such as one in an ``image``."""
    with Sandbox(**options) as sandbox:
        return sandbox.read_file(path, timeout=timeout)


def write_file(
    path: str, data: bytes | str, *, timeout: float | None = None, **options: Unpack[MachineOptions]
) -> None:
    """Write a file in a machine of its own, whose ``changes`` are kept, such as one in an ``image``."""
    options.setdefault("changes", "kept")
    with Sandbox(**options) as sandbox:
        sandbox.write_file(path, data, timeout=timeout)


def split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the machine, and of the command."""
    machine = {name: value for name, value in options.items() if name in _MACHINE}
    return machine, {name: value for name, value in options.items() if name not in _MACHINE}

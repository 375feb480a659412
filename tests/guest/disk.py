"""The guest's disk: an ext4 image with known files and their checksums."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.guest.initramfs import tool_files
from tests.system.kernels import PreparationError
from tests.system.prepared import key_of, prepared_file

SIZE = 64 << 20
MANIFEST = "manifest.sha256"


def prepare(file: Path) -> Path:
    return prepared_file(file, key_of(Path(__file__)), _make)


def prepare_tools(directory: Path, commands: tuple[str, ...]) -> Path:
    """An image with commands of the host and their libraries, to change root into: read as far as it is used."""
    files = tool_files(commands)
    file = directory / f"tools-{'-'.join(sorted(commands))}.img"
    return prepared_file(file, key_of(Path(__file__), *files.values()), lambda scratch: _make_tools(scratch, files))


def copy(source: Path, target: Path) -> Path:
    """Holes stay holes, and where the file system can share blocks, it does."""
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", "--", str(source), str(target)], check=True)
    target.chmod(0o644)
    return target


def read_file(image: Path, path: str) -> bytes:
    """A file's contents in an image that no guest uses; empty if it is not there."""
    result = subprocess.run([_tool("debugfs"), "-R", f"cat {path}", str(image)], capture_output=True, check=True)
    return result.stdout


def check(image: Path) -> str:
    """What e2fsck says against the image: empty when it is sound."""
    result = subprocess.run([_tool("e2fsck"), "-fn", str(image)], capture_output=True, text=True, check=False)
    return "" if result.returncode == 0 else result.stdout + result.stderr


def _make(file: Path) -> None:
    # The same bytes every time: a test may know a checksum.
    generator = random.Random("pyvmm")
    files = {
        "hello.txt": b"Hello from the host.\n",
        "empty": b"",
        "one-byte": b"x",
        "random.bin": generator.randbytes(1 << 20),
        "directory/below/zeroes.bin": bytes((1 << 20) - 1),
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name, data in files.items():
            path = Path(scratch, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items()]
        Path(scratch, MANIFEST).write_text("".join(lines))
        make_file_system(file, Path(scratch), SIZE)


def _make_tools(file: Path, files: dict[str, Path]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for directory in ("dev", "proc", "sys", "tmp"):
            Path(scratch, directory).mkdir()
        for name, source in files.items():
            path = Path(scratch, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, path)
        size = sum(path.stat().st_size for path in files.values())
        make_file_system(file, Path(scratch), (size * 5 // 4 >> 20) + 16 << 20)


def make_file_system(file: Path, contents: Path, size: int) -> None:
    with file.open("wb") as image:
        image.truncate(size)
    command = [_tool("mke2fs"), "-q", "-F", "-t", "ext4", "-L", "pyvmm", "-b", "4096"]
    command += ["-U", "d0d0d0d0-0000-4000-8000-000000000001"]
    command += ["-E", "root_owner=0:0", "-d", str(contents), str(file)]
    subprocess.run(command, check=True, capture_output=True)


def _tool(name: str) -> str:
    """Found for a plain user too, whose PATH may lack /sbin."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise PreparationError(f"{name} is not installed (tests/system/require guest)")
    return path

"""The guest's initramfs: busybox, modules, our init. And archives of tools beside it.

Uncompressed: unpacking is then a copy, and shorter than any decompression.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.system import kernels, modules
from tests.system.kernels import PreparationError
from tests.system.newc import Newc
from tests.system.prepared import key_of, prepared_file

HERE = Path(__file__).resolve().parent

MODULES = (
    *("virtio_mmio", "virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "virtio_console"),
    *("virtio_balloon", "vmw_vsock_virtio_transport", "ext4", "crc32c_generic", "pvpanic-mmio"),
)

# Not every flavour has these.
OPTIONAL_MODULES = (
    *("9p", "9pnet_virtio", "fuse", "virtiofs", "overlay", "af_packet", "squashfs", "vfat"),
    *("virtio_scsi", "sd_mod", "virtio_input", "virtio_mem", "virtio_pmem", "virtio_crypto"),
    *("crc32c_intel", "nls_ascii", "nls_cp437"),
)

# The shell finds all of busybox's commands by itself; these are for the kernel,
# for scripts' first lines and for library calls that start a shell.
LINKS = ("bin/sh", "sbin/modprobe", "sbin/poweroff", "sbin/reboot")


def prepare(file: Path, kernel: Path) -> Path:
    busybox = _static_busybox()
    inputs = (HERE / "init", HERE / "report", HERE / "initramfs.py", busybox)
    key = key_of(*inputs, kernels.release(kernel))
    return prepared_file(file, key, lambda scratch: _make(scratch, kernel, busybox))


def prepare_tools(directory: Path, commands: tuple[str, ...]) -> Path:
    files = tool_files(commands)
    file = directory / f"tools-{'-'.join(sorted(commands))}.cpio"
    return prepared_file(file, key_of(*files.values()), lambda scratch: _make_tools(scratch, files))


def tool_files(commands: tuple[str, ...]) -> dict[str, Path]:
    """The commands and the libraries they need: where they go in a guest, and where they are here."""
    files = {f"usr/bin/{command}": _command_path(command) for command in sorted(commands)}
    for path in list(files.values()):
        files.update({library.lstrip("/"): Path(library) for library in _libraries(path)})
    return files


def _make(file: Path, kernel: Path, busybox: Path) -> None:
    with file.open("wb") as out:
        archive = Newc(out)
        for directory in ("dev", "proc", "sys", "tmp", "run", "root", "mnt", "etc"):
            archive.directory(directory)
        archive.file("bin/busybox", busybox.read_bytes(), 0o755)
        for link in LINKS:
            archive.symlink(link, "/bin/busybox")
        archive.file("init", (HERE / "init").read_bytes(), 0o755)
        archive.file("report", (HERE / "report").read_bytes(), 0o755)
        archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        archive.file("etc/group", b"root:x:0:\n")
        with tempfile.TemporaryDirectory() as scratch:
            _put_modules(archive, kernel, Path(scratch))
        archive.close()


def _put_modules(archive: Newc, kernel: Path, scratch: Path) -> None:
    """Our modules with indexes of just them: short, so modprobe is quick in the guest."""
    release = kernels.release(kernel)
    files = modules.in_load_order(kernel, MODULES)
    files += modules.in_load_order(kernel, OPTIONAL_MODULES, optional=True)
    directory = scratch / "lib/modules" / release
    directory.mkdir(parents=True)
    for file in dict.fromkeys(files):
        (directory / f"{modules.module_name(file)}.ko").write_bytes(modules.contents(file))
    for listing in ("modules.builtin", "modules.order"):
        shutil.copy(kernel / "lib/modules" / release / listing, directory)
    subprocess.run(["depmod", "-b", str(scratch), release], check=True, capture_output=True)
    indexes = [directory / name for name in ("modules.dep", "modules.alias", "modules.softdep")]
    for path in (*sorted(directory.glob("*.ko")), *indexes):
        archive.file(str(path.relative_to(scratch)), path.read_bytes())


def _make_tools(file: Path, files: dict[str, Path]) -> None:
    with file.open("wb") as out:
        archive = Newc(out)
        for name, path in files.items():
            archive.file(name, path.read_bytes(), 0o755)
        archive.close()


def _libraries(program: Path) -> list[str]:
    """Paths of the shared libraries and of the loader; none for a static program."""
    result = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    return re.findall(r"(?:=> |^\s*)(/\S+) \(0x", result.stdout, re.MULTILINE)


def _command_path(command: str) -> Path:
    path = shutil.which(command)
    if path is None:
        raise PreparationError(f"{command} is not installed (tests/system/require guest test)")
    return Path(path).resolve()


def _static_busybox() -> Path:
    busybox = _command_path("busybox")
    if _libraries(busybox):
        raise PreparationError(f"{busybox} is not static (tests/system/require guest)")
    return busybox

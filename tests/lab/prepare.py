"""The kernel and the initramfs that the lab machine boots, made once in ``.cache/lab``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.system import kernels, modules, newc, prepared
from tests.system.kernels import PreparationError

HERE = Path(__file__).resolve().parent
LAB = prepared.CACHE / "lab"

# The cloud kernel has neither 9p nor kvm_amd.
FLAVOUR = "amd64"

ROOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
COMMAND_MODULES = ("virtio_console", "kvm_amd", "tun", "vhost_net", "vhost_vsock")


def kernel() -> Path:
    return kernels.kernel_directory(FLAVOUR)


def initramfs() -> Path:
    directory = kernel()
    busybox = static_busybox()
    key = prepared.key_of(
        kernels.release(directory),
        busybox,
        HERE / "init",
        HERE / "session",
        HERE / "prepare.py",
    )
    return prepared.prepared_file(LAB / "initramfs", key, lambda file: _make_initramfs(file, directory, busybox))


def static_busybox() -> Path:
    path = shutil.which("busybox")
    if path is None:
        raise PreparationError("busybox is not installed (tests/system/require lab)")
    return Path(path).resolve()


def _make_initramfs(file: Path, directory: Path, busybox: Path) -> None:
    root = modules.in_load_order(directory, ROOT_MODULES)
    command = [m for m in modules.in_load_order(directory, COMMAND_MODULES) if m not in root]
    with file.open("wb") as out:
        archive = newc.Newc(out)
        archive.file("bin/busybox", busybox.read_bytes(), 0o755)
        archive.file("init", (HERE / "init").read_bytes(), 0o755)
        archive.file("lab/session", (HERE / "session").read_bytes())
        for listing, files in (("modules.root", root), ("modules.command", command)):
            names = "".join(f"{modules.module_name(m)}.ko\n" for m in files)
            archive.file(f"lab/{listing}", names.encode())
            for module in files:
                archive.file(f"lab/{modules.module_name(module)}.ko", modules.contents(module))
        archive.close()


if __name__ == "__main__":
    try:
        print(initramfs(), kernel() / "vmlinux", sep="\n")
    except PreparationError as error:
        sys.exit(f"lab: {error}")

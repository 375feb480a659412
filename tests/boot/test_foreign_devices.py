"""Devices of programs that nobody here wrote, under Linux: QEMU's storage daemon, and a virtiofsd."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from pathlib import Path

import pytest
from pyvmm.testing.waiting import wait_until

from tests.boot.booting import boot
from tests.guest import artefacts, disk
from tests.system.listening import is_listening

DAEMONS = [path for path in ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd") if os.access(path, os.X_OK)]

SCRIPT = """
echo DISK=$(sha256sum /dev/vda | cut -d' ' -f1)
mkdir -p /mnt && mount -t ext4 /dev/vda /mnt || exit 1
(cd /mnt && sha256sum -c manifest.sha256) >/dev/null || exit 2
echo written by the guest >/mnt/from-guest.txt
sync && umount /mnt

modprobe virtiofs
mkdir -p /shared /fixed
mount -t virtiofs shared /shared || exit 3
mount -t virtiofs fixed /fixed || exit 4
(cd /shared && sha256sum -c manifest) >/dev/null || exit 5
(cd /fixed && sha256sum -c manifest) >/dev/null || exit 6
mkdir -p /shared/new/deep && cp -r /shared/tree /shared/new/deep/ || exit 7
i=0; while [ $i -lt 100 ]; do echo $i >/shared/new/$i; i=$((i+1)); done
mv /shared/tree/0.bin /shared/moved.bin && rm /shared/tree/1.bin && ln -s moved.bin /shared/link || exit 8
dd if=/dev/urandom of=/shared/big bs=64k count=64 2>/dev/null && echo BIG=$(sha256sum /shared/big | cut -d' ' -f1)
touch /fixed/new 2>/dev/null && exit 9
rm /fixed/manifest 2>/dev/null && exit 10
sync
umount /shared /fixed
echo ALL=done
"""


def make_tree(directory: Path) -> None:
    """Files in directories, and a manifest of their checksums."""
    generator = random.Random(str(directory.name))
    lines = []
    for i in range(30):
        path = directory / ("tree" if i < 20 else f"tree/below{i}") / f"{i}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(generator.randbytes(generator.randint(0, 20_000)))
        lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(directory)}\n")
    (directory / "manifest").write_text("".join(lines))


@pytest.mark.skipif(not DAEMONS, reason="no virtiofsd on this machine")
def test_disk_of_the_storage_daemon_and_directories_of_virtiofsd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a user types them, and / has them too.
    monkeypatch.chdir(tmp_path)
    image = artefacts.fresh_disk(tmp_path / "disk.img")
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    shared, fixed = tmp_path / "mnt", tmp_path / "media"
    for directory in (shared, fixed):
        make_tree(directory)
    (tmp_path / "link").symlink_to("media")
    sock = tmp_path / "blk.sock"
    daemon = subprocess.Popen(
        [
            "qemu-storage-daemon",
            *("--blockdev", f"driver=file,node-name=disk,filename={image}"),
            "--export",
            f"type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={sock},writable=on",
        ]
    )
    try:
        wait_until(lambda: is_listening(sock) or daemon.poll() is not None)
        result = boot(
            tmp_path,
            SCRIPT,
            *("--device", f"vhost-user:{sock},type=block"),
            *("--device", "fs:mnt,tag=shared"),
            *("--device", "fs:link,tag=fixed,ro"),
        )
    finally:
        daemon.terminate()
        daemon.wait()

    result.assert_passed()
    assert result.value("ALL") == "done"
    assert result.value("DISK") == digest
    assert disk.read_file(image, "/from-guest.txt") == b"written by the guest\n"
    assert disk.check(image) == ""
    assert hashlib.sha256((shared / "big").read_bytes()).hexdigest() == result.value("BIG")
    assert [(shared / "new" / str(i)).read_text() for i in range(100)] == [f"{i}\n" for i in range(100)]
    for i in range(20):
        assert (shared / "new/deep/tree" / f"{i}.bin").exists()
    assert (shared / "moved.bin").exists() and not (shared / "tree/1.bin").exists()
    assert os.readlink(shared / "link") == "moved.bin"
    assert sorted(path.name for path in fixed.iterdir()) == ["manifest", "tree"]

"""Debian's kernels, unmodified, with serial, block and net together; and one boot after the other."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.boot import linux
from tests.boot.booting import boot
from tests.guest import artefacts
from tests.system.prepared import CACHE


@pytest.mark.parametrize(
    ("flavour", "cpus", "memory", "end"), [("cloud", 1, "128M", "poweroff"), ("amd64", 2, "1G", "reboot")]
)
def test_linux_boots_and_uses_serial_block_and_net(
    tmp_path: Path, flavour: str, cpus: int, memory: str, end: str
) -> None:
    linux.check(tmp_path, flavour=flavour, elf=False, cpus=cpus, memory=memory, end=end)


def test_fio_verifies_what_it_wrote_at_random(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    script = """
fio --name=verify --filename=/dev/vda --rw=randrw --bs=512-64k --size=24m --direct=1 --ioengine=libaio \
    --iodepth=16 --verify=crc32c --verify_fatal=1 --do_verify=1 --fsync=64 \
    >/tmp/fio 2>&1 || { cat /tmp/fio; exit 1; }
blkdiscard -o 0 -l 1048576 /dev/vda && echo DISCARDED=$(head -c 1048576 /dev/vda | tr -d '\\0' | wc -c)
"""
    result = boot(tmp_path, script, "--cpus", "2", "--device", f"block:{image}", tools=["fio", "blkdiscard"])

    result.assert_passed()
    assert result.value("DISCARDED") == "0"


SOAK = """
fio --time_based --runtime=$SECONDS_EACH --rw=randrw --bs=512-64k --size=24m --direct=1 --ioengine=libaio \\
    --iodepth=16 --verify=crc32c --verify_fatal=1 --verify_backlog=64 --fsync=64 \\
    --name=cached --filename=/dev/vda --name=direct --filename=/dev/vdb >/tmp/fio 2>&1 || { cat /tmp/fio; exit 1; }
sync
for disk in vda vdb; do
    echo $disk-REQUESTS=$(awk '{print $1 + $5}' /sys/block/$disk/stat)
    echo $disk-SUM=$(sha256sum </dev/$disk)
done
dmesg | grep -E 'I/O error|timed out' | sed 's/^/COMPLAINT /'
"""


@pytest.mark.parametrize("engine", ["io_uring", "threads"])
def test_disks_keep_what_fio_writes(
    tmp_path: Path, engine: str, soak: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One through the host's page cache; one past it, with two queues."""
    monkeypatch.setenv("PYVMM_AIO", engine)
    images = [CACHE / f"soak-{name}.img" for name in ("cached", "direct")]
    for image in images:
        image.write_bytes(bytes(32 << 20))
    result = boot(
        tmp_path,
        f"SECONDS_EACH={soak}\n{SOAK}",
        *("-v", "--cpus", "2"),
        *("--device", f"block:{images[0]}"),
        *("--device", f"block:{images[1]},direct,queues=2"),
        tools=["fio"],
    )

    result.assert_passed()
    assert "COMPLAINT" not in result.output
    for disk, image in zip(("vda", "vdb"), images, strict=True):
        requests = int(result.value(f"{disk}-REQUESTS"))
        with capsys.disabled():
            print(f"{engine}, {disk}: {requests} requests in {soak} s, verified")
        assert requests > 10 * soak
        assert result.value(f"{disk}-SUM").split()[0] == hashlib.sha256(image.read_bytes()).hexdigest()
        image.unlink()


def test_boots_in_a_row(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    image = artefacts.fresh_disk(tmp_path / "disk.img")
    for _ in range(pytestconfig.getoption("--boots")):
        result = boot(tmp_path, "sha256sum /dev/vda >/dev/null", "--device", f"block:{image},ro")
        result.assert_passed()

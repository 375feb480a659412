"""The host's side: what can be a disk, what is said where it cannot, locks and alignment."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyvmm.errors import UsageError
from pyvmm_virtio_block.image import Image

OPEN = """
import os
import sys
import tempfile
from pathlib import Path
from pyvmm.errors import PyvmmError
from pyvmm_virtio_block.image import Image
if len(sys.argv) > 3:
    os.setuid(int(sys.argv[3]))
try:
    image = Image(Path(sys.argv[1]), read_only=sys.argv[2] == "ro")
except PyvmmError as error:
    sys.exit(f"{error.exit_status} {error}")
"""


def refusal(path: Path, **options: bool) -> str:
    """The one line that a user reads; nothing stays open."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UsageError) as caught:
        Image(path, **options)
    assert len(os.listdir("/proc/self/fd")) == before
    message = str(caught.value)
    assert "\n" not in message and str(path) in message and caught.value.exit_status == 2
    return message


def open_elsewhere(path: Path, mode: str, user: int | None = None) -> str:
    """What another process hears when it opens the image; empty where it may."""
    command = [sys.executable, "-c", OPEN, str(path), mode, *([] if user is None else [str(user)])]
    return subprocess.run(command, capture_output=True, text=True).stderr.strip()


def test_missing_file(tmp_path: Path) -> None:
    assert "does not exist; make it with: truncate" in refusal(tmp_path / "none.img")


def test_directory(tmp_path: Path) -> None:
    assert "is a directory" in refusal(tmp_path)


def test_character_device() -> None:
    assert "neither a file nor a block device" in refusal(Path("/dev/null"))


def test_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "neither a file nor a block device" in refusal(tmp_path / "fifo", read_only=True)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.img").touch()
    assert "is empty" in refusal(tmp_path / "empty.img")


def test_size_not_a_multiple_of_a_sector(tmp_path: Path) -> None:
    path = tmp_path / "odd.img"
    path.write_bytes(bytes(1000))
    message = refusal(path)
    assert "1000 bytes, not a multiple of 512; fill it up with: truncate -s %512" in message
    subprocess.run(message.partition("with: ")[2].split(), check=True)
    image = Image(path)
    assert image.size == 1024
    image.close()


def test_file_in_a_file(image: Path) -> None:
    assert "cannot be opened: Not a directory" in refusal(image / "x")


def test_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    assert "does not exist" in refusal(tmp_path / "link")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_permissions(image: Path) -> None:
    for folder in image.parents:
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    image.chmod(0o444)
    assert open_elsewhere(image, "ro", user=65534) == ""
    assert "cannot be written (Permission denied); give ro" in open_elsewhere(image, "rw", user=65534)
    image.chmod(0)
    assert "may not be opened by this user" in open_elsewhere(image, "rw", user=65534)


def test_second_machine_is_refused(image: Path) -> None:
    first = Image(image)
    assert open_elsewhere(image, "rw").startswith(f"2 block: {image} is used by another virtual machine")
    assert "is used by another" in open_elsewhere(image, "ro")
    first.close()
    assert open_elsewhere(image, "rw") == ""


def test_second_disk_of_the_same_machine_is_refused(image: Path, tmp_path: Path) -> None:
    first = Image(image)
    (tmp_path / "link").symlink_to(image)
    (tmp_path / "hard").hardlink_to(image)
    for path in (image, tmp_path / "link", tmp_path / "hard"):
        assert "is used by another" in refusal(path)
    first.close()


def test_readers_share_and_keep_writers_out(image: Path) -> None:
    first = Image(image, read_only=True)
    assert open_elsewhere(image, "ro") == ""
    assert "is used by another virtual machine; stop it, or give both machines ro" in open_elsewhere(image, "rw")
    first.close()


def test_lock_ends_with_the_process_that_has_it(image: Path) -> None:
    code = OPEN + "\nimport signal\nprint('open', flush=True)\nsignal.pause()\n"
    with subprocess.Popen([sys.executable, "-c", code, str(image), "rw"], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        assert "is used by another" in refusal(image)
        other.kill()
        other.wait()
    Image(image).close()


def test_qemus_header_is_data(tmp_path: Path) -> None:
    path = tmp_path / "looks-like.qcow2"
    path.write_bytes(b"QFI\xfb" + bytes(1020))
    image = Image(path)
    assert image.size == 1024
    image.close()


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Path]:
    """A block device of 1 MiB."""
    if os.geteuid() or not os.path.exists("/dev/loop-control"):
        pytest.skip("needs root and loop devices")
    backing = tmp_path / "backing.img"
    backing.write_bytes(os.urandom(1 << 20))
    attach = subprocess.run(["losetup", "--find", "--show", str(backing)], capture_output=True, text=True)
    if attach.returncode:
        pytest.skip(f"no loop device to be had: {attach.stderr.strip()}")
    device = Path(attach.stdout.strip())
    yield device
    subprocess.run(["losetup", "--detach", str(device)], check=True)


def test_block_device(loop_device: Path, make_disk: Any, backend: str) -> None:
    content = loop_device.read_bytes()
    disk = make_disk(loop_device)
    assert disk.device.image.size == 1 << 20
    assert disk.read(7, 4096) == content[7 * 512 : 7 * 512 + 4096]
    assert disk.write(2047, b"e" * 512) == 0
    assert disk.request(4)[0] == 0
    assert loop_device.read_bytes() == content[:-512] + b"e" * 512


def test_block_device_discards_and_zeroes(loop_device: Path, make_disk: Any, backend: str) -> None:
    content = loop_device.read_bytes()
    disk = make_disk(loop_device)
    ranges = (8).to_bytes(8, "little") + (16).to_bytes(4, "little") + bytes(4)
    assert disk.request(13, 0, [ranges])[0] == 0
    assert disk.read(0, 1 << 20) == content[:4096] + bytes(8192) + content[12288:]
    assert disk.request(11, 0, [ranges])[0] == 0


def test_block_device_with_direct(loop_device: Path, make_disk: Any, backend: str) -> None:
    content = loop_device.read_bytes()
    disk = make_disk(loop_device, direct=True)
    assert disk.read(1, 512, 1024, 7, 505) == content[512:2560]
    assert disk.write(3, b"d" * 4096) == 0
    disk.request(4)
    assert loop_device.read_bytes() == content[:1536] + b"d" * 4096 + content[5632:]


def test_block_device_that_is_mounted(loop_device: Path, tmp_path: Path) -> None:
    if subprocess.run(["mke2fs", "-q", str(loop_device)], capture_output=True).returncode:
        pytest.skip("needs mke2fs")
    where = tmp_path / "mount"
    where.mkdir()
    if subprocess.run(["mount", str(loop_device), str(where)], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        assert "is in use on this host; unmount it there, or give ro" in refusal(loop_device)
        Image(loop_device, read_only=True).close()
    finally:
        subprocess.run(["umount", str(where)], check=True)


def test_read_only_block_device(loop_device: Path) -> None:
    subprocess.run(["blockdev", "--setro", str(loop_device)], check=True)
    try:
        assert "give ro" in refusal(loop_device)
        Image(loop_device, read_only=True).close()
    finally:
        subprocess.run(["blockdev", "--setrw", str(loop_device)], check=True)


def direct_image(path: Path) -> Image:
    try:
        return Image(path, direct=True)
    except UsageError as error:
        pytest.skip(str(error))


def test_direct_aligned_and_not(make_disk: Any, image: Path, backend: str) -> None:
    direct_image(image).close()
    content = bytearray(image.read_bytes())
    disk = make_disk(image, direct=True)
    heap = disk.driver.heap
    aligned, odd = heap.allocate(4096, 4096), heap.allocate(1024, 4096)
    assert disk.request(0, 8, (), [aligned]) == (0, bytes(content[4096:8192]))
    assert disk.request(0, 9, (), [odd]) == (0, bytes(content[9 * 512 : 11 * 512]))
    aligned.write(b"A" * 4096)
    odd.write(b"B" * 1024)
    for sector, buffer in ((8, aligned), (9, odd), (16, aligned)):
        assert disk.request(1, sector, [buffer])[0] == 0
        content[sector * 512 : sector * 512 + buffer.length] = buffer.read()
        assert disk.request(0, 8, (), [8192]) == (0, bytes(content[4096:12288])), "the two ways disagree"
        assert disk.request(0, 8, (), [heap.allocate(8192, 4096)]) == (0, bytes(content[4096:12288]))
    assert disk.request(4)[0] == 0
    assert image.read_bytes() == content


def test_direct_bypasses_the_page_cache(image: Path) -> None:
    disk = direct_image(image)
    assert os.get_blocking(disk.fd)
    flags = int(Path(f"/proc/self/fdinfo/{disk.fd}").read_text().split()[3], 8)
    assert flags & os.O_DIRECT
    assert not disk.file.native.nowait
    disk.close()


def test_alignment_is_probed_where_the_kernel_does_not_say(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    direct_image(image).close()
    monkeypatch.setattr("pyvmm_virtio_block.image.direct_alignment", lambda fd: None)
    disk = Image(image, direct=True)
    assert disk.file.native.offset_mask + 1 in (512, 1024, 2048, 4096)
    disk.close()


def test_no_direct_on_this_file_system(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvmm_virtio_block.image.direct_alignment", lambda fd: (0, 0))
    assert "leave out direct" in refusal(image, direct=True)


def test_closing_twice(image: Path) -> None:
    disk = Image(image)
    disk.close()
    disk.close()


def test_the_way_out_is_quoted_as_a_shell_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "my disk's.img"
    quoted = shlex.quote(str(path))
    with pytest.raises(UsageError) as caught:
        Image(path)
    assert str(caught.value).endswith(f"make it with: truncate -s 1G {quoted}")
    path.touch()
    with pytest.raises(UsageError) as caught:
        Image(path)
    assert str(caught.value).endswith(f"make it a disk with: truncate -s 1G {quoted}")
    path.write_bytes(b"x")
    with pytest.raises(UsageError) as caught:
        Image(path)
    assert str(caught.value).endswith(f"fill it up with: truncate -s %512 {quoted}")

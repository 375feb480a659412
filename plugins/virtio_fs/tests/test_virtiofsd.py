"""A directory of the host through a real virtiofsd: files read and written by FUSE over the rings, without a guest."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyvmm._native import lib
from pyvmm.errors import HostError, UsageError
from pyvmm.options import parse_options
from pyvmm.plugin import CmdlineRequest
from pyvmm.testing.mmio_driver import FAILED
from pyvmm.testing.virtio_driver import VirtioDriver
from pyvmm.testing.waiting import wait_until

sys.path.append(str(Path(__file__).parent))

from fuse import Fuse, FuseError
from pyvmm_virtio_fs import FsOptions, daemon, pyvmm_device_kinds
from pyvmm_virtio_fs.device import Fs

DAEMONS = [path for path in (*daemon.PATHS, os.environ.get("PYVMM_VIRTIOFSD", "")) if os.access(path, os.X_OK)]
"""The host's, and one more that somebody wants tested."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="virtiofsd needs root for its sandbox")
pytestmark = pytest.mark.skipif(not DAEMONS, reason="no virtiofsd on this machine: tests/system/require lab")


@pytest.fixture(params=DAEMONS)
def virtiofsd(request: pytest.FixtureRequest) -> Path:
    """A daemon of this host."""
    return Path(request.param)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with something in it."""
    tree = tmp_path / "a, tree\\"
    (tree / "below").mkdir(parents=True)
    (tree / "hello.txt").write_text("hello from the host\n")
    (tree / "below" / "random.bin").write_bytes(bytes(range(256)) * 100)
    return tree


@pytest.fixture
def mount(tree: Path, virtiofsd: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., Fuse]]:
    """Mounts the directory as a guest does."""
    drivers = []

    def mount(**options: object) -> Fuse:
        device = Fs(FsOptions(tree, virtiofsd=virtiofsd, **options))  # type: ignore[arg-type]
        drivers.append(VirtioDriver(device, name="fs0"))
        drivers[-1].start()
        return Fuse(drivers[-1])

    yield mount
    for driver in drivers:
        driver.close()


def daemons_of(tree: Path) -> set[int]:
    """The processes whose root is ``tree``: virtiofsd's that serve it."""
    found = set()
    wanted = identity_of(tree)
    for path in Path("/proc").glob("[0-9]*/root"):
        try:
            if identity_of(f"{path}/.") == wanted:
                found.add(int(path.parent.name))
        except OSError:
            pass
    return found


@needs_root
def test_device_is_a_file_system_with_a_tag(mount: Callable[..., Fuse]) -> None:
    driver = mount(tag="share").driver
    assert driver.probe() == lib.VIRTIO_ID_FS
    assert driver.read_config(0, 40) == b"share".ljust(36, b"\0") + b"\1\0\0\0"


@needs_root
def test_files_of_the_host_are_read(mount: Callable[..., Fuse], tree: Path) -> None:
    fuse = mount()
    assert fuse.read("hello.txt") == b"hello from the host\n"
    assert fuse.read("below", "random.bin") == bytes(range(256)) * 100
    with pytest.raises(FuseError, match="ENOENT"):
        fuse.lookup("nothing")


@needs_root
def test_files_are_written_and_removed(mount: Callable[..., Fuse], tree: Path) -> None:
    fuse = mount()
    node = fuse.mkdir("new")
    for i in range(20):
        fuse.write(f"{i}.bin", bytes([i]) * 5000, node)
    for i in range(20):
        assert (tree / "new" / f"{i}.bin").read_bytes() == bytes([i]) * 5000
    fuse.unlink("hello.txt")
    assert not (tree / "hello.txt").exists()


@needs_root
def test_what_is_read_only_cannot_be_written(mount: Callable[..., Fuse], tree: Path) -> None:
    fuse = mount(ro=True)
    assert fuse.read("hello.txt") == b"hello from the host\n"
    for attempt in (
        lambda: fuse.write("new.txt", b"x"),
        lambda: fuse.write("hello.txt", b"x"),
        lambda: fuse.unlink("hello.txt"),
        lambda: fuse.mkdir("new"),
    ):
        with pytest.raises(FuseError, match="EROFS"):
            attempt()
    assert (tree / "hello.txt").read_text() == "hello from the host\n"
    (tree / "by-host").write_text("the host still can")
    assert fuse.read("by-host") == b"the host still can"


@needs_root
def test_guest_cannot_leave_the_directory(mount: Callable[..., Fuse], tree: Path) -> None:
    (tree.parent / "secret").write_text("secret")
    (tree / "link").symlink_to("../secret")
    fuse = mount()
    with pytest.raises(FuseError):
        fuse.lookup("secret", fuse.lookup(".."))
    with pytest.raises(FuseError):
        fuse.lookup("../secret")
    with pytest.raises(FuseError):
        fuse.read("link")


# --- The directory that was named is the one that is served


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with directories in it that / has as well, and links."""
    here = tmp_path / "here"
    (here / "below").mkdir(parents=True)
    for name in ("media", "etc", "usr"):
        (here / name).mkdir()
        (here / name / "mine.txt").write_text(name)
    (here / "link").symlink_to("media")
    (here / "around").symlink_to("around")
    monkeypatch.chdir(here)
    return here


def root_of(device: Fs) -> tuple[int, int]:
    """The root directory of the process that serves, from outside: of virtiofsd, or of the one that it made."""
    pid = device._daemon.child.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    status = os.stat(f"/proc/{children[-1] if children else pid}/root/.")
    return status.st_dev, status.st_ino


def identity_of(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


@needs_root
@pytest.mark.parametrize("ro", [False, True])
@pytest.mark.parametrize("sandbox", ["namespace", "chroot"])
@pytest.mark.parametrize("name", ["media", "etc", "./usr", "link", "below/..", "../here/media", "..", "."])
def test_root_that_is_served_is_the_directory_that_was_named(
    here: Path, virtiofsd: Path, name: str, sandbox: str, ro: bool
) -> None:
    wanted = identity_of(name)
    device = Fs(FsOptions(Path(name), virtiofsd=virtiofsd, ro=ro, sandbox=sandbox, tag="m"))  # type: ignore[arg-type]
    with VirtioDriver(device, name="fs0") as driver:
        driver.start()
        fuse = Fuse(driver)
        assert root_of(device) == wanted
        for entry in Path(name).iterdir():
            if not entry.is_symlink():
                fuse.lookup(entry.name)
        if ro:
            with pytest.raises(FuseError, match="EROFS"):
                fuse.write("new.txt", b"x")
        else:
            fuse.write("new.txt", b"x")
    assert (here / name / "new.txt").exists() is not ro


@needs_root
@pytest.mark.parametrize("sandbox", ["namespace", "chroot"])
def test_directory_that_is_replaced_while_the_daemon_starts_is_not_served(
    here: Path, virtiofsd: Path, sandbox: str
) -> None:
    opened = identity_of("link")
    slow = here / "slow"
    slow.write_text(
        f"""#!/bin/sh
[ "$1" = --version ] && exec {virtiofsd} --version
mv {here}/media {here}/moved; mkdir {here}/media; rm {here}/link; ln -s etc {here}/link
exec {virtiofsd} "$@"
"""
    )
    slow.chmod(0o755)
    device = Fs(FsOptions(Path("link"), virtiofsd=Path("slow"), sandbox=sandbox))  # type: ignore[arg-type]
    with VirtioDriver(device, name="fs0") as driver:
        driver.start()
        assert Fuse(driver).read("mine.txt") == b"media"
        assert root_of(device) == opened == identity_of("moved")


@needs_root
def test_what_is_mounted_below_is_read_only_as_well(mount: Callable[..., Fuse], tree: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", tree / "below"], check=True)
    try:
        (tree / "below" / "there").write_text("mounted")
        fuse = mount(ro=True)
        assert fuse.read("below", "there") == b"mounted"
        with pytest.raises(FuseError, match="EROFS"):
            fuse.write("new.txt", b"x", fuse.lookup("below"))
        assert not (tree / "below" / "new.txt").exists()
    finally:
        subprocess.run(["umount", "--lazy", tree / "below"], check=True)


@needs_root
def test_start_leaves_no_mount_and_removes_nothing_of_the_directory(mount: Callable[..., Fuse], tree: Path) -> None:
    mount()
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    assert not [line for line in mounts if "/pyvmm-fs-" in line or f"{tree.parent}/" in line]
    assert (tree / "hello.txt").exists() and (tree / "below" / "random.bin").exists()


@needs_root
@pytest.mark.parametrize("cache", ["always", "never"])
@pytest.mark.parametrize("sandbox", ["namespace", "chroot"])
def test_options_are_those_that_the_daemon_knows(mount: Callable[..., Fuse], cache: str, sandbox: str) -> None:
    assert mount(cache=cache, sandbox=sandbox, xattr=True).read("hello.txt")


@needs_root
def test_driver_may_come_again(mount: Callable[..., Fuse]) -> None:
    fuse = mount()
    for _ in range(3):
        fuse.driver.reset()
        assert fuse.driver.status == 0
        fuse.driver.start()
        assert Fuse(fuse.driver).read("hello.txt") == b"hello from the host\n"


@needs_root
def test_daemon_that_dies_fails_the_device(mount: Callable[..., Fuse], caplog: pytest.LogCaptureFixture) -> None:
    driver = mount().driver
    device = driver.device
    assert isinstance(device, Fs)
    os.kill(device._daemon.child.pid, signal.SIGKILL)
    driver.run_until(lambda: driver.needs_reset)
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert lines == ["fs0: virtiofsd was killed by SIGKILL; it is not served until the driver resets it"]
    driver.reset()
    assert driver.status & FAILED


@needs_root
def test_nothing_is_left(tree: Path, virtiofsd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(os.listdir(tmp_path)), len(os.listdir("/proc/self/fd"))
    device = Fs(FsOptions(tree, virtiofsd=virtiofsd))
    assert daemons_of(tree)
    with VirtioDriver(device, name="fs0") as driver:
        driver.start()
        Fuse(driver)
    wait_until(lambda: not daemons_of(tree))
    assert (set(os.listdir(tmp_path)), len(os.listdir("/proc/self/fd"))) == before


@needs_root
def test_daemon_dies_with_its_machine(tree: Path, virtiofsd: Path) -> None:
    program = f"""
import signal
from pathlib import Path
from pyvmm_virtio_fs import FsOptions
from pyvmm_virtio_fs.device import Fs
device = Fs(FsOptions(Path({str(tree)!r}), virtiofsd=Path({str(virtiofsd)!r})))
print("ready", flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as machine:
        assert machine.stdout is not None and machine.stdout.readline() == b"ready\n"
        assert daemons_of(tree)
        machine.kill()
    wait_until(lambda: not daemons_of(tree))


# --- What is wrong is one line


def test_directory_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none does not exist"):
        Fs(FsOptions(tmp_path / "none"))


def test_file_in_place_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is no directory"):
        Fs(FsOptions(tmp_path / "file"))


def test_link_that_leads_to_itself_is_one_line(here: Path) -> None:
    with pytest.raises(UsageError, match="around is a link to itself; give a directory"):
        Fs(parse_options(FsOptions, "fs", "around"))


def test_no_temporary_directory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(HostError, match="a temporary directory cannot be made: No such file or directory"):
        Fs(FsOptions(tmp_path))


def test_daemon_is_the_file_that_was_named_and_not_one_of_path(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "virtiofsd").write_text("#!/bin/sh\necho virtiofsd 1.0\n")
    (here / "virtiofsd").write_text("#!/bin/sh\necho mine\n")
    for path in (tmp_path / "virtiofsd", here / "virtiofsd"):
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(HostError, match=r"here/virtiofsd is no virtiofsd: its --version says 'mine'"):
        Fs(FsOptions(here, virtiofsd=Path("virtiofsd")))


def test_no_daemon_names_debians_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "PATHS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="package virtiofsd, Debian 12 in qemu-system-common") as caught:
        Fs(FsOptions(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("program", "message"),
    [("/bin/true", "is no virtiofsd"), ("/etc/passwd", "Permission denied"), ("/no/such", "No such file")],
)
def test_other_programs_are_refused(tmp_path: Path, program: str, message: str) -> None:
    with pytest.raises(HostError, match=message):
        Fs(FsOptions(tmp_path, virtiofsd=Path(program)))


def test_daemon_that_gives_up_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fake = tmp_path / "fake"
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] && echo virtiofsd 1.13.2 && exit\necho it cannot be >&2; exit 3\n')
    fake.chmod(0o755)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(HostError, match="virtiofsd ended with status 3"):
        Fs(FsOptions(tmp_path, virtiofsd=fake))
    assert "fs: it cannot be" in [record.getMessage() for record in caplog.records]
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "text", ["/srv,tag=", "/srv,tag=" + "x" * 37, "/srv,tag=a\nb", "/" + "x" * 40, "/srv,cache=none"]
)
def test_options_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError):
        parse_options(FsOptions, "fs", text)


def test_tag_is_the_directorys_name_by_default() -> None:
    assert parse_options(FsOptions, "fs", "/usr/share/").name == "share"
    assert parse_options(FsOptions, "fs", "/").name == "root"
    assert parse_options(FsOptions, "fs", "/usr/share,tag=x").name == "x"


def test_two_directories_with_one_tag_are_refused(tmp_path: Path) -> None:
    (kind,) = pyvmm_device_kinds()
    assert kind.cmdline is not None

    def ask(*texts: str) -> str:
        assert kind.cmdline is not None
        return kind.cmdline(CmdlineRequest([parse_options(FsOptions, "fs", text) for text in texts], "", False))

    assert ask("/a/share", "/b/share,tag=other") == ""
    with pytest.raises(UsageError, match=r"^fs: /a/share and /b both have the tag 'share'; give one of them another"):
        ask("/a/share", "/c", "/b,tag=share")

"""The archives that we write are what cpio reads."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.system.newc import Newc


@pytest.fixture
def archive() -> bytes:
    out = io.BytesIO()
    newc = Newc(out)
    newc.file("a/b/file", b"contents", 0o755)
    newc.file("a/b/empty", b"")
    newc.symlink("/link", "a/b/file")
    newc.close()
    return out.getvalue()


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_unpacks_what_was_put_in(archive: bytes, tmp_path: Path) -> None:
    subprocess.run(["cpio", "-i", "--quiet"], input=archive, cwd=tmp_path, check=True)

    assert (tmp_path / "a/b/file").read_bytes() == b"contents"
    assert (tmp_path / "a/b/file").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "a/b/empty").read_bytes() == b""
    assert (tmp_path / "link").readlink() == Path("a/b/file")


def test_a_directory_comes_once_and_before_what_is_in_it(archive: bytes) -> None:
    assert archive.count(b"a/b\0") == 1
    assert archive.index(b"a/b\0") < archive.index(b"a/b/file\0")


def test_another_archive_can_follow(archive: bytes) -> None:
    assert len(archive) % 512 == 0

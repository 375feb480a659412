"""Artefacts in the cache: made once, whole or absent."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.system.prepared import key_of, prepared_directory, prepared_file


def test_a_file_is_made_again_only_when_its_key_changes(tmp_path: Path) -> None:
    made = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text(str(len(made)))

    for key in ("one", "one", "two", "two"):
        prepared_file(tmp_path / "file", key, make)

    assert len(made) == 2
    assert (tmp_path / "file").read_text() == "2"


def test_a_failed_making_leaves_nothing_in_place_and_the_next_one_starts_clean(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        (directory / "half").touch()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        prepared_directory(tmp_path / "directory", fail)
    assert not (tmp_path / "directory").exists()

    prepared_directory(tmp_path / "directory", lambda directory: (directory / "whole").touch())
    assert [path.name for path in (tmp_path / "directory").iterdir()] == ["whole"]


def test_callers_at_the_same_time_make_it_once(tmp_path: Path) -> None:
    made: list[Path] = []
    barrier = threading.Barrier(8)

    def call() -> None:
        barrier.wait()
        prepared_directory(tmp_path / "directory", made.append)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(made) == 1


def test_a_key_depends_on_contents_and_on_where_one_input_ends() -> None:
    assert key_of("ab", "c") != key_of("a", "bc")

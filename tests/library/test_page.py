"""The examples of the library's first page: each is a program that prints what the page says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from pyvmm.testing.waiting import PATIENCE

from tests.documentation import DOCS, Block, blocks
from tests.system.prepared import TOP

PAGE = DOCS / "reference/machine.md"


def examples() -> Iterator[tuple[Block, str]]:
    """Each program of the page, and the one of the README, and what it prints."""
    [readme] = [block for block in blocks(TOP / "README.md") if "Machine(" in block.text]
    yield readme, "b'ready\\n'\nthe guest powered off\n"
    for program, output in pairwise(blocks(PAGE)):
        if program.language == "python":
            assert output.language == "text", f"line {program.line}: the page does not say what this program prints"
            yield program, output.text


@pytest.mark.parametrize(("program", "output"), [pytest.param(*pair, id=f"line {pair[0].line}") for pair in examples()])
def test_an_example_prints_what_the_page_says(guest: Path, tmp_path: Path, program: Block, output: str) -> None:
    shutil.copy(guest, tmp_path / "vmlinuz")
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    script = tmp_path / "example.py"
    script.write_text(program.text)

    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False
    )

    assert (done.stdout, done.stderr, done.returncode) == (output, "", 0)


def test_every_program_of_the_page_is_an_example() -> None:
    assert len(list(examples())) - 1 == sum(block.language == "python" for block in blocks(PAGE)) >= 6

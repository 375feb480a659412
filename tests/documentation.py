"""The documentation's pages, and the blocks of code in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tests.system.prepared import TOP

DOCS: Final = TOP / "docs"

DOWNSTREAM: Final = TOP / "tests/downstream"
"""Packages that are none of ours, as somebody makes them who has read the documentation."""


class Block(NamedTuple):
    """A fenced block."""

    language: str
    caption: str
    """The file that it belongs to, where it has a caption."""

    text: str
    line: int
    """Where it starts in its page, from 1."""


def pages() -> list[Path]:
    """All pages of the documentation, and the READMEs."""
    readmes = [TOP / "README.md", *sorted(TOP.glob("plugins/*/README.md")), *sorted(TOP.glob("core/README.md"))]
    return [*sorted(DOCS.rglob("*.md")), *readmes]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of ``page``, directives such as ``{code-block} python`` among them."""
    lines = page.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        fence = re.fullmatch(r"(`{3,})(?:\{([\w-]+)\} ?)?(\S*)", lines[at].rstrip())
        at += 1
        if not fence:
            continue
        start = at
        while lines[at].rstrip() != fence[1]:
            at += 1
        content = lines[start:at]
        at += 1
        caption = ""
        while fence[2] and content and (option := re.fullmatch(r":([\w-]+): ?(.*)", content[0])):
            caption = option[2] if option[1] == "caption" else caption
            content = content[1:]
        if fence[2] and content and not content[0]:
            content = content[1:]
        yield Block(fence[3] or fence[2] or "", caption, "\n".join([*content, ""]), start)


def files(page: Path) -> dict[str, str]:
    """The files that the captions of ``page`` name: their blocks, with a blank line or, for Python, two between
    those that begin at the margin."""
    result: dict[str, str] = {}
    for block in blocks(page):
        if not block.caption:
            continue
        before = result.get(block.caption)
        gap = "" if before is None else "\n" if block.text.startswith(" ") else "\n\n"
        result[block.caption] = (before or "") + gap + block.text
    return result


def commands(page: Path, prompt: str = "$ ") -> list[str]:
    """What ``page`` has its reader type after ``prompt``, line by line; lines that end in a backslash are joined."""
    found = []
    for block in blocks(page):
        if block.language == "console":
            text = block.text.replace("\\\n", " ")
            found += [line.removeprefix(prompt) for line in text.splitlines() if line.startswith(prompt)]
    return found

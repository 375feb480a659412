"""The pictures of the documentation: they show what is there, and can be read by everybody."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.documentation import pages
from tests.system.prepared import TOP
from tests.test_rooms import ROOMS

STATIC = TOP / "docs/_static"
PICTURES = sorted(STATIC.glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_of_the_rooms_has_the_order_that_imports_have() -> None:
    labels = [
        (-float(text.get("y", "")), float(text.get("x", "")), text.text or "")
        for text in ET.parse(STATIC / "rooms.svg").iter(f"{SVG}text")
        if "monospace" in text.get("font-family", "")
    ]

    assert [name for _, _, name in sorted(labels)] == [room for room in ROOMS if not room.startswith("_")]


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_has_a_title_and_follows_light_and_dark(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    root = ET.fromstring(text)

    assert root.find(f"{SVG}title") is not None
    assert root.get("class") == "pyvmm", "docs/_static/pyvmm.css gives colours to this class"
    assert "prefers-color-scheme: dark" in text
    drawn = re.sub("<style.*?</style>", "", text, flags=re.DOTALL)
    assert not re.search("#[0-9a-fA-F]{6}", drawn), "a colour that is the same in light and dark"


def test_each_picture_is_on_a_page_and_says_in_words_what_it_shows() -> None:
    shown = {
        (page.parent / target).resolve(): words
        for page in pages()
        for words, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    }

    assert set(PICTURES) == set(shown)
    assert all(shown.values())

"""Puts the SVG pictures of ``_static`` into HTML pages as elements.

A reader can then select and search their text, and they follow the theme's switch between light and dark. An ``<img>``
follows the browser's setting only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes


def inline_pictures(app: Any, document: nodes.document) -> None:
    """Replace each image of an SVG file by the file's text."""
    if app.builder.format != "html":
        return
    for image in list(document.findall(nodes.image)):
        path = Path(app.srcdir) / image["uri"]
        if path.suffix == ".svg" and path.is_file():
            picture = nodes.raw("", f'<div class="picture">{path.read_text(encoding="utf-8")}</div>', format="html")
            app.env.note_dependency(str(path))
            image.parent.replace(image, picture)


def setup(app: Any) -> dict[str, bool]:
    app.connect("doctree-read", inline_pictures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

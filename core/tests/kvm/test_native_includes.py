"""The order of the C files: none needs another that needs it in turn."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from pathlib import Path

NATIVE = Path(__file__).parents[2] / "native"
TEXTS = {path.name: path.read_text() for pattern in ("*.c", "*.h") for path in NATIVE.glob(pattern)}

INCLUDE = re.compile(r'^#include "(\w+\.h)"', re.MULTILINE)
DEFINITION = re.compile(r"^(?!static )\w[^;={]*?\b(pyvmm_\w+)(?:\([^;{]*\)\s*\{| = \{)", re.MULTILINE)
USE = re.compile(r"(?<!struct )(?<!enum )\bpyvmm_\w+")
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def test_headers_include_each_other_in_no_circle() -> None:
    includes = {name: set(INCLUDE.findall(text)) for name, text in TEXTS.items()}
    assert includes["ring.h"] == {"memory.h"}
    order = [*TopologicalSorter(includes).static_order()]  # CycleError names a circle
    assert order.index("memory.h") < order.index("ring.h") < order.index("ring.c")


def test_c_files_call_each_other_in_no_circle() -> None:
    sources = {name: COMMENT.sub("", text) for name, text in TEXTS.items() if name.endswith(".c")}
    home = {symbol: name for name, text in sources.items() for symbol in DEFINITION.findall(text)}
    assert home["pyvmm_queue_take"] == "ring.c"
    assert home["pyvmm_aio_pool"] == "aio_pool.c"
    calls = {
        name: {home[symbol] for symbol in USE.findall(text) if symbol in home} - {name}
        for name, text in sources.items()
    }
    assert calls["aio_pool.c"] == {"aio_request.c"}
    [*TopologicalSorter(calls).static_order()]

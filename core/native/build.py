"""Builds pyvmm._native: cffi in API mode. Each area has a C file, a header and a fragment of cffi declarations."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
AREAS = {
    "memory": "memory",
    "fastport": "fastport",
    "ring": "ring",
    "interrupt_status": "interrupt_status",
    "kvm": "vcpu",
    "message_stream": "message_stream",
    "messages": "messages",
    "message_pair": "message_pair",
    "aio": "aio",
    "file_requests": "file_requests",
    "process": "process",
    "terminal": "terminal",
}
"""The fragments (cdef/NAME.cdef), each with its C file. A fragment uses only structs of those before it."""

KERNEL = ("vhost",)
"""Fragments that only declare what the kernel's headers define."""

INTERNAL = ("aio_pool", "aio_request", "aio_uring", "wait")
"""C files that only other C files call."""

HEADERS = """
#include <linux/kvm.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
"""

ffibuilder = FFI()
for area in (*AREAS, *KERNEL):
    ffibuilder.cdef((HERE / "cdef" / f"{area}.cdef").read_text())
ffibuilder.set_source(
    "pyvmm._native",
    HEADERS + "".join(f'#include "{name}.h"\n' for name in AREAS.values()),
    # Relative to the folder of setup.py, as setuptools wants its sources.
    sources=[f"native/{name}.c" for name in (*AREAS.values(), *INTERNAL)],
    depends=[f"native/{name}.h" for name in (*AREAS.values(), "aio_backend", "wait", "spin")],
    include_dirs=["native"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-fvisibility=hidden"],
    py_limited_api=True,
)

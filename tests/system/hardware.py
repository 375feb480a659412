"""The abilities of this machine's KVM."""

from __future__ import annotations

import os
import re
from pathlib import Path


def why_no_linux_guest() -> str:
    """The reason why an unmodified Linux cannot run in a guest here; empty if it can."""
    if not Path("/dev/kvm").exists():
        return "this machine has no /dev/kvm"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "this user may not open /dev/kvm"
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    if flags is None or not {"vmx", "svm"} & set(flags[1].split()):
        return "this machine's KVM has no hardware virtualization"
    return ""

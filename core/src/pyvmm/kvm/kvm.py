"""/dev/kvm: checks that it is usable, asks for its capabilities, creates virtual machines."""

from __future__ import annotations

import os

from pyvmm._native import ffi, lib
from pyvmm.errors import HostError
from pyvmm.kvm.ioctl import ioctl
from pyvmm.kvm.vcpu import CpuidEntry
from pyvmm.kvm.vm import Vm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

REQUIRED: Final = (
    "KVM_CAP_USER_MEMORY",
    "KVM_CAP_SET_TSS_ADDR",
    "KVM_CAP_EXT_CPUID",
    "KVM_CAP_IRQCHIP",
    "KVM_CAP_IRQFD",
    "KVM_CAP_IOEVENTFD",
    "KVM_CAP_MP_STATE",
    "KVM_CAP_IMMEDIATE_EXIT",
)
"""The capabilities that a machine needs. The newest, KVM_CAP_IMMEDIATE_EXIT, came with Linux 4.11."""

_MAX_CPUID_ENTRIES: Final = 256

_DEFAULT_NR_VCPUS: Final = 4
"""The recommended number if KVM does not tell one (Documentation/virt/kvm/api.rst, 4.7 KVM_CREATE_VCPU)."""


class Kvm:
    """An open /dev/kvm."""

    def __init__(self, path: str = "/dev/kvm") -> None:
        """Open ``path``. Raises :class:`HostError`, which says what is missing and what to do."""
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise HostError(
                f"{path}: not there; load the module kvm_intel or kvm_amd, or enable virtualization"
            ) from None
        except PermissionError:
            raise HostError(f"{path}: no permission; add the user to the group that owns it, usually kvm") from None
        except OSError as error:
            raise HostError(f"{path}: {error.strerror}") from error
        try:
            self._check(path)
        except BaseException:
            self.close()
            raise

    def _check(self, path: str) -> None:
        try:
            version = ioctl(self.fd, "KVM_GET_API_VERSION")
        except HostError:
            raise HostError(f"{path}: not a KVM device") from None
        if version != lib.KVM_API_VERSION:
            raise HostError(f"{path}: KVM API version {version}, pyvmm needs {lib.KVM_API_VERSION}")
        missing = [name for name in REQUIRED if not self.check_extension(name)]
        if missing:
            raise HostError(f"{path}: this kernel's KVM lacks {', '.join(missing)}; Linux 4.11 or later has them")

    def check_extension(self, name: str) -> int:
        """KVM's answer for the capability named ``KVM_CAP_…``: 0 if it lacks it (KVM_CHECK_EXTENSION)."""
        return ioctl(self.fd, "KVM_CHECK_EXTENSION", getattr(lib, name))

    @property
    def max_vcpus(self) -> int:
        """The number of vCPUs that a machine can have."""
        return self.check_extension("KVM_CAP_MAX_VCPUS") or self.recommended_vcpus

    @property
    def recommended_vcpus(self) -> int:
        """The number of vCPUs up to which the kernel says that a machine runs well: usually the host's CPUs."""
        return self.check_extension("KVM_CAP_NR_VCPUS") or _DEFAULT_NR_VCPUS

    def supported_cpuid(self) -> list[CpuidEntry]:
        """The CPUID leaves that this host can give a guest (KVM_GET_SUPPORTED_CPUID)."""
        cpuid = ffi.new("struct kvm_cpuid2 *", {"entries": _MAX_CPUID_ENTRIES})
        cpuid.nent = _MAX_CPUID_ENTRIES
        ioctl(self.fd, "KVM_GET_SUPPORTED_CPUID", cpuid)
        return [
            CpuidEntry(entry.function, entry.index, entry.flags, entry.eax, entry.ebx, entry.ecx, entry.edx)
            for entry in (cpuid.entries[i] for i in range(cpuid.nent))
        ]

    def create_vm(self) -> Vm:
        """A new, empty virtual machine."""
        return Vm(ioctl(self.fd, "KVM_CREATE_VM", 0), ioctl(self.fd, "KVM_GET_VCPU_MMAP_SIZE"))

    def close(self) -> None:
        """Close it; closing twice does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Kvm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""Linux KVM: the only place that sees an ioctl (Documentation/virt/kvm/api.rst)."""

from pyvmm.kvm.fast_port import FastPort, FastPorts
from pyvmm.kvm.interrupt_status_table import InterruptStatusTable
from pyvmm.kvm.ioctl import KvmError
from pyvmm.kvm.kvm import Kvm
from pyvmm.kvm.vcpu import CpuidEntry, Vcpu, VcpuExit
from pyvmm.kvm.vm import Vm

__all__ = ["CpuidEntry", "FastPort", "FastPorts", "InterruptStatusTable", "Kvm", "KvmError", "Vcpu", "VcpuExit", "Vm"]

"""The whole suite for a virtio device."""

from __future__ import annotations

from pyvmm.testing.contract.config_space import ConfigSpaceContract
from pyvmm.testing.contract.containment import ContainmentContract
from pyvmm.testing.contract.life import LifeContract
from pyvmm.testing.contract.negotiation import NegotiationContract
from pyvmm.testing.contract.ring import RingContract
from pyvmm.testing.contract.saved import SavedStateContract
from pyvmm.testing.contract.vcpu import VcpuContract


class VirtioDeviceContract(
    NegotiationContract,
    ConfigSpaceContract,
    LifeContract,
    RingContract,
    SavedStateContract,
    ContainmentContract,
    VcpuContract,
):
    """The rules that every virtio device has to obey.

    A plugin's test class derives from it, is called ``Test…``, and makes its device in ``make``. Its other members are
    described in :class:`~pyvmm.testing.contract.base.VirtioContractBase`.
    """

"""The rules that every device must obey, as tests. A plugin's test class inherits them and makes its device.

::

    from pyvmm.testing.contract import VirtioDeviceContract

    class TestLamp(VirtioDeviceContract):
        def make(self) -> Lamp:
            return Lamp(LampOptions())

:class:`VirtioDeviceContract` is for a :class:`~pyvmm.virtio.device.VirtioDevice`, :class:`BusDeviceContract` for a
:class:`~pyvmm.bus.BusDevice` at ports or in memory. If not all rules apply to a virtio device, for example because
another program serves its queues, use the single parts of :class:`VirtioDeviceContract`. pytest must be installed.
"""

from __future__ import annotations

from pyvmm.testing.contract.bus import BusDeviceContract
from pyvmm.testing.contract.config_space import ConfigSpaceContract
from pyvmm.testing.contract.containment import ContainmentContract
from pyvmm.testing.contract.life import LifeContract
from pyvmm.testing.contract.negotiation import NegotiationContract
from pyvmm.testing.contract.ring import RingContract
from pyvmm.testing.contract.saved import SavedStateContract
from pyvmm.testing.contract.vcpu import VcpuContract
from pyvmm.testing.contract.virtio import VirtioDeviceContract

__all__ = [
    "BusDeviceContract",
    "ConfigSpaceContract",
    "ContainmentContract",
    "LifeContract",
    "NegotiationContract",
    "RingContract",
    "SavedStateContract",
    "VcpuContract",
    "VirtioDeviceContract",
]

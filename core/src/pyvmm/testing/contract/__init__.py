"""What every device has to do, as tests that a plugin's own inherit by naming their device.

::

    from pyvmm.testing.contract import VirtioDeviceContract

    class TestLamp(VirtioDeviceContract):
        def make(self) -> Lamp:
            return Lamp(LampOptions())

:class:`VirtioDeviceContract` is for a :class:`~pyvmm.virtio.device.VirtioDevice`, :class:`BusDeviceContract` for a
:class:`~pyvmm.bus.BusDevice` at ports or in memory. pytest has to be installed.
"""

from __future__ import annotations

from pyvmm.testing.contract.bus import BusDeviceContract
from pyvmm.testing.contract.virtio import VirtioDeviceContract

__all__ = ["BusDeviceContract", "VirtioDeviceContract"]

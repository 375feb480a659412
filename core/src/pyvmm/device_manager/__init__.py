"""Where devices are put: their addresses and interrupt lines."""

from pyvmm.device_manager.mmio import MMIODeviceManager

__all__ = ["MMIODeviceManager"]

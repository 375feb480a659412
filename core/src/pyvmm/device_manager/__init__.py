"""Devices' places in a machine: their addresses and interrupt lines."""

from pyvmm.device_manager.mmio import MMIODeviceManager

__all__ = ["MMIODeviceManager"]

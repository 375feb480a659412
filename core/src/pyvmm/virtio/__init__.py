"""Virtio 1.2: devices, queues, and the transport over MMIO."""

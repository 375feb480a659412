"""Devices in processes of their own: the machine's side, the device's side, and the options."""

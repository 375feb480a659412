"""A device in a process of its own: the machine's end, the device's end, and their options."""

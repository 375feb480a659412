"""The kit for tests of devices: the driver's side of rings and transports, without a guest."""

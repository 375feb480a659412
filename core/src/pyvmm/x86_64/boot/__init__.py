"""How a kernel gets into guest memory, and a vCPU into the kernel."""

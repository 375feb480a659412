"""The parts of the host that pyvmm uses, without ever blocking: event loop, descriptors, files, child processes."""

"""What pyvmm uses of the host, without ever blocking: event loop, descriptors, files, child processes."""

"""Character devices: a line of bytes between the guest and the host's terminal, a pty, a file or a socket.

Serial ports and consoles use them. The device's side is a :class:`~pyvmm.chardev.line.Line`. The user's choice is a
:class:`~pyvmm.chardev.options.ChardevOptions`, from which :func:`~pyvmm.chardev.options.open_backend` makes the host's
side, a :class:`~pyvmm.chardev.backend.Backend`. Nothing here blocks, and both directions are bounded.
"""

"""What is at the host's end of a line of bytes to the guest: the terminal, a pty, a file, a socket.

For devices such as serial ports and consoles. The device's side is a :class:`~pyvmm.chardev.line.Line`; what the user
chose is a :class:`~pyvmm.chardev.options.ChardevOptions`, of which :func:`~pyvmm.chardev.options.open_backend` makes a
:class:`~pyvmm.chardev.backend.Backend`. Nothing here blocks, and both directions are bounded.
"""

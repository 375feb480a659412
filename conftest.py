"""What holds for all tests of the workspace."""

import signal

# A shell's background jobs ignore Ctrl-C and pass that on; the programs that tests send it to must not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

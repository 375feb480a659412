"""What holds for all tests of the workspace."""

import os
import signal

from hypothesis import settings

# A shell's background jobs ignore Ctrl-C and pass that on; the programs that tests send it to must not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is. Where nobody looks into a failure at once, the next run has
# to meet it again.
settings.register_profile("workspace", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("workspace")

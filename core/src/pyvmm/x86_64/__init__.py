"""The x86-64 machine as its software sees it: bytes in guest memory, CPUID and the registers that end a run."""

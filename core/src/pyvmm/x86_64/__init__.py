"""The x86-64 PC as its software sees it: memory layout, tables in guest memory, CPUID and platform registers."""

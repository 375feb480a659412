"""The command ``pyvmm``."""

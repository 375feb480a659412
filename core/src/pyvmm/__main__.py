"""``python -m pyvmm``."""

from pyvmm.cli.program import script

if __name__ == "__main__":
    script()

"""``python -m pyvmm``."""

from pyvmm.cli import script

if __name__ == "__main__":
    script()

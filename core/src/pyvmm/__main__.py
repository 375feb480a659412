"""``python -m pyvmm``."""

from pyvmm.cli.main import script

if __name__ == "__main__":
    script()

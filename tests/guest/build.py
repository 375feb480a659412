#!/usr/bin/env python3
"""Makes all guests, and says where they are: tests/guest/build.py [FLAVOUR…]"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.guest import artefacts, debian


def main(flavours: list[str]) -> int:
    unknown = [flavour for flavour in flavours if flavour not in artefacts.FLAVOURS]
    if unknown:
        print(f"guest: no kernel {unknown[0]}: {', '.join(artefacts.FLAVOURS)}", file=sys.stderr)
        return 2
    try:
        for flavour in flavours or artefacts.FLAVOURS:
            guest = artefacts.ensure(flavour)
            print(guest.vmlinuz, guest.vmlinux, guest.initramfs, sep="\n")
        print(artefacts.disk())
        if not flavours:
            print(debian.ensure().disk)
    except artefacts.PreparationError as error:
        print(f"guest: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Guests for tests, `make run` and `make shell`: kernels, initramfs, a disk image.

All are made in ``.cache/guest`` when first wanted, see :mod:`guest.artefacts`.
"""

"""Small stand-ins for slow modules of the standard library, imported by every start."""

"""Loads a kernel into guest memory, and sets the state in which the first vCPU enters it."""

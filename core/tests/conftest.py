"""The fixtures of all tests of the core."""

from core.tests.distributions import lamp, site_packages

__all__ = ["lamp", "site_packages"]

"""The mirror in a fleet: ``python -m tests.mirror``."""

"""The driver and the toolkit of a node that serves, moved under load: ``python -m tests.driver``."""

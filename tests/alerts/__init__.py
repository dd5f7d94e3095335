"""Tests of the alert rules: ``make test-alerts``."""

"""Attacks on a running fleet from a host beside it: what is tried, what a shut fleet does, and what this one did."""

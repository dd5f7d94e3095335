"""Faults that are put into hosts of a fleet, to see whether diagnose.yml names each as the first cause."""

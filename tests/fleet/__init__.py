"""The test fleet: real systemd hosts in containers, with simulated GPUs, for the demo and for Molecule."""

"""Upgrades under load, on a fleet of a gateway and two nodes."""

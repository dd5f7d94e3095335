"""The edge of a fleet: firewall, jail and two gateways, on hosts in containers (``python -m tests.edge``)."""

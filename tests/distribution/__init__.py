"""``make bench-distribution``: one model for several nodes, through a mirror and straight from upstream."""

"""The demo: a fleet booted, site.yml run, plans shown, a real answer fetched as a user would."""

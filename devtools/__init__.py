"""Tools for people who work on the pack: the host, a server to run workflows in, the demo. Never published."""

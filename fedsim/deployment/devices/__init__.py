"""Real devices: which may join a federation that runs on Flower's SuperLink and SuperNodes. See docs/devices.md."""

"""Runs on real devices: Flower's runtime behind the engines' seam, the SuperLink, the devices' own commands."""

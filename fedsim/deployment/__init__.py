"""Runs on real devices: Flower's runtime behind the interface of the engines, the SuperLink, the devices' commands."""

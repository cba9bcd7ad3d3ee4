"""Engines: Flower Grids that run the clients of a simulation on this machine.

Strategies and clients speak Flower and nothing else, so the same code runs on every engine and on Flower's own runtime.
"""

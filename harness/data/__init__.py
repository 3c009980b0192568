"""Datasets: one per file, catalogue.py finds them. Every one arrives as the same record, base.Dataset."""

from harness.data.catalogue import load, names

__all__ = ["load", "names"]

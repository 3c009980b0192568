"""Sweeps: plans of independent runs, worked off by processes here or on other machines, resumable at any point."""

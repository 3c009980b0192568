"""Operators: one file each, with its shapes, its exact reference, its storage and the C it becomes."""

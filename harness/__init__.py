"""harness: from a PyTorch network to measured C on a Cortex-M board. Nothing heavy is imported here."""

__version__ = "0.1.0"

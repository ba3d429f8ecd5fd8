"""Distributed keyword-spotting training: exact draws, crash-safe runs, one or many GPUs."""

__version__ = "0.1.0"

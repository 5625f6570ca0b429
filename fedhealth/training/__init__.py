"""The training engine: the only privacy code that imports torch."""

"""The demonstration: a whole federation of real processes on one machine."""

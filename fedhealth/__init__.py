"""FedHealth: hospitals train models together while patient data never leave a hospital."""

__version__ = "0.1.0"

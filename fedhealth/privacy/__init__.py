"""Differential privacy without torch: costs, mechanisms, the ledger that enforces the budget, and its audit."""

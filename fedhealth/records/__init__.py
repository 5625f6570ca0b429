"""Patients' records as a study sees them: a table in, scaled features and held-out membership out."""

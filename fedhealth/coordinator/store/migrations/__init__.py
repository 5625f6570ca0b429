"""The migrations of the coordinator's database, run by Alembic."""

"""How Alembic runs the migrations: on the connection that `store.database` gives it; it is run by Alembic alone."""

from alembic import context

from fedhealth.coordinator.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by making it anew
)
with context.begin_transaction():
    context.run_migrations()

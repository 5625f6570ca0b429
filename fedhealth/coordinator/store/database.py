"""Open the coordinator's database: SQLite in the coordinator's home, or PostgreSQL by URL, migrated to this version.

Invariants: a commit that returned survives a power cut (SQLite: write-ahead log with `synchronous=FULL`; PostgreSQL:
its default); foreign keys hold; a database belongs to one coordinator for ever, and to one process of it at a time; one
that a newer version has migrated is left alone. SQLite's file lies in the home, which has a lock of its own. In
PostgreSQL a session holds a lock for as long as its connection lasts, so there is one connection, which takes the lock
anew whenever it is made anew: whoever lost it writes nothing. A pooler between, such as
PgBouncer, must pool sessions.

Source: SQLAlchemy 2.1, "SQLite: foreign key support"; Alembic 1.20, "Sharing a connection with migration commands";
PostgreSQL 15, 13.3.5 "Advisory Locks".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session

from fedhealth.coordinator.store.tables import OwnerRow
from fedhealth.errors import ConfigInvalid, FedHealthError
from fedhealth.secret_file import create_file

DATABASE_FILE = "studies.sqlite"
_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = int.from_bytes(b"fedhealt")
"""Name of the lock among those of one PostgreSQL database; any number that nobody else would take."""
_LOCK_SECONDS = 2
"""For how long it is waited for: the server may take a moment to see that a process was killed."""


class StoreUnavailable(FedHealthError):
    """The coordinator's database cannot be used; repair the disk or the server, and start the coordinator again."""

    exit_code = 9


def open_database(home: Path, url: str | None, witness_key: str) -> Engine:
    """Return the database of a coordinator, made or migrated where it must be.

    Args:
        home: the coordinator's folder, where its SQLite file is.
        url: of a PostgreSQL database, `postgresql+psycopg://...`; None for SQLite.
        witness_key: the coordinator's public witness key, hexadecimal.

    Raises:
        ConfigInvalid: the URL is none, the driver is not installed, the database is another coordinator's, or a
            coordinator is using it.
        StoreUnavailable: it cannot be reached or written, or a newer version has migrated it.
    """
    path = home / DATABASE_FILE
    if url is None and not path.exists():
        create_file(path, b"")  # readable by the coordinator alone from its first byte
    try:
        parsed = make_url(f"sqlite:///{path}" if url is None else url)
        if url is not None and parsed.drivername != "postgresql+psycopg":
            raise ArgumentError(parsed.drivername)
        if parsed.drivername == "sqlite":
            engine = create_engine(parsed)
            event.listen(engine, "connect", _prepare_sqlite)
        else:
            encoding = {"client_encoding": "utf8"}  # whatever the server's is
            engine = create_engine(parsed, connect_args=encoding, pool_pre_ping=True, pool_size=1, max_overflow=0)
            event.listen(engine, "connect", _hold_postgres)
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigInvalid(
            "the coordinator cannot use this database",
            got=str(error),
            wanted="postgresql+psycopg://USER@HOST/NAME, or nothing for SQLite in its home",
            next_step="Correct --database.",
        ) from error
    except ImportError as error:
        raise ConfigInvalid(
            "the driver for PostgreSQL is not installed", next_step="Install it: pip install 'fedhealth[postgres]'"
        ) from error
    try:
        with engine.begin() as connection:
            migrate(connection)
            _claim(connection, witness_key)
    except FedHealthError:
        engine.dispose()  # gives the lock back
        raise
    except (DBAPIError, CommandError) as error:
        engine.dispose()
        raise StoreUnavailable(
            f"the coordinator's database {parsed.render_as_string()} cannot be used",
            got=str(error.orig).strip() if isinstance(error, DBAPIError) else str(error),
            next_step="Repair it, start its server, or upgrade this coordinator; then start it again.",
        ) from error
    return engine


@contextmanager
def session_of(engine: Engine) -> Iterator[Session]:
    """Yield a session of one transaction, which is given up unless it is committed.

    Raises:
        StoreUnavailable: the database cannot be reached or written.
        ConfigInvalid: its server forgot this coordinator, and another one is using it now.
    """
    try:
        with Session(engine) as session:
            yield session
    except DBAPIError as error:
        raise StoreUnavailable(
            "the coordinator's database cannot be used",
            got=str(error.orig).strip(),
            next_step="Repair it or start its server; what was being done goes on after that.",
        ) from error


def migrate(connection: Connection, revision: str = "head") -> None:
    """Bring a database's tables to a revision; nothing is done if they are there."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    current = MigrationContext.configure(connection).get_current_revision()
    if revision != "head" or current != ScriptDirectory.from_config(config).get_current_head():
        command.upgrade(config, revision)


def _claim(connection: Connection, witness_key: str) -> None:
    with Session(connection) as session:
        owner = session.scalars(select(OwnerRow.witness_key)).one_or_none()
        if owner is None:
            session.add(OwnerRow(witness_key=witness_key))
            session.commit()
        elif owner != witness_key:
            raise ConfigInvalid(
                "this database belongs to another coordinator",
                got=f"tables of the coordinator with witness key {owner[:16]}...",
                wanted=f"an empty database, or that of witness key {witness_key[:16]}...",
                next_step="Give each coordinator a database of its own.",
            )


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own class
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _hold_postgres(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own class
    """Keep every other coordinator away for as long as this connection lasts."""
    from psycopg.errors import LockNotAvailable  # an optional package, which made this connection

    connection.execute("SELECT set_config('lock_timeout', %s, false)", (f"{_LOCK_SECONDS}s",))
    try:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
    except LockNotAvailable as error:
        raise ConfigInvalid(
            "a coordinator is using this database already",
            got=f"its lock is held by another process for {_LOCK_SECONDS} s",
            wanted="one coordinator for each database: two would run the same studies twice",
            next_step="Stop the other one first, or give this one a database of its own: --database.",
        ) from error
    connection.execute("RESET lock_timeout")
    connection.commit()

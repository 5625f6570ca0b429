"""The one ledger of a simulation: what the ledgers of all its sites hold, in one SQLite file, and its verification.

A simulated site's ledger is a real one that is kept in memory (`Ledger.in_memory`). Nobody is protected by it, so
nothing is lost with it, and it is written once, at the end, beside those of all other sites: the same tables with the
site's name before each row. So it cannot be opened as a site's ledger, and were one site's rows taken out of it, their
first entry still says what they are of.

Torch-free. Each site's part is verified by the code that verifies a real ledger (`verify`).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import apsw

from fedhealth.errors import LedgerDamaged
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.ledger_database import SIMULATION_ID, TABLES, is_simulated_ledger, memory_database
from fedhealth.privacy.verified_ledger import VerifiedLedger
from fedhealth.privacy.verify import verify_database

SIMULATED_LEDGER = "simulation.ledger"
"""The file's name in the folder of a simulation."""


def write_simulated_ledger(path: Path, ledgers: Mapping[str, Ledger]) -> None:
    """Write the ledgers of simulated sites to a new file.

    Args:
        path: nothing may stand there.
        ledgers: by site; all of them kept in memory.
    """
    with closing(_new(path)) as database, database:
        for site, ledger in ledgers.items():
            for table, row in ledger.rows():
                places = ", ".join("?" * (1 + len(row)))
                database.execute(f"INSERT INTO {table} VALUES ({places})", (site, *row))  # noqa: S608 - our own names


def join_simulated_ledgers(path: Path, parts: Iterable[Path]) -> None:
    """Write what several such files hold, each of sites of its own, to a new one."""
    with closing(_new(path)) as database:
        for part in parts:
            database.execute("ATTACH ? AS part", (str(part),))
            with database:
                for table in TABLES:
                    database.execute(f"INSERT INTO main.{table} SELECT * FROM part.{table}")  # noqa: S608
            database.execute("DETACH part")


def verify_simulated_ledger(path: Path) -> Iterator[VerifiedLedger]:
    """Yield what the ledger of each simulated site says, in the order of their names.

    Raises:
        LedgerDamaged, IdentityInvalid: naming the site; or the file is no simulation's ledger.
    """
    if not is_simulated_ledger(path):
        raise LedgerDamaged(f"{path} is no ledger of a simulation")
    try:
        with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as file:
            for (site,) in file.execute("SELECT DISTINCT site FROM entry ORDER BY site").fetchall():
                yield _verified(file, str(site))
    except apsw.Error as error:
        raise LedgerDamaged(f"the simulated ledger {path} cannot be read", got=f"{type(error).__name__}") from error


def _verified(file: apsw.Connection, site: str) -> VerifiedLedger:
    with closing(memory_database()) as database:
        for table in TABLES:
            for _, *row in file.execute(f"SELECT * FROM {table} WHERE site = ?", (site,)):  # noqa: S608
                places = ", ".join("?" * len(row))
                database.execute(f"INSERT INTO {table} VALUES ({places})", row)  # noqa: S608
        found = verify_database(database)
    if found.head.site != site or not found.simulation:
        raise LedgerDamaged(
            f"the part of '{site}' in a simulated ledger is of another site, or of a real one",
            next_step="Nobody made it by a simulation: find out where it comes from.",
        )
    return found


def _new(path: Path) -> apsw.Connection:
    if path.exists():
        raise LedgerDamaged(f"there is a file at {path} already", next_step="It is never overwritten.")
    database = apsw.Connection(str(path))
    with closing(memory_database()) as model:
        for table in TABLES:
            columns = [name for _, name, *_ in model.execute(f"PRAGMA table_info({table})")]
            database.execute(f"CREATE TABLE {table} (site, {', '.join(columns)})")
            database.execute(f"CREATE INDEX {table}_of_a_site ON {table} (site)")
    database.pragma("application_id", SIMULATION_ID)
    return database

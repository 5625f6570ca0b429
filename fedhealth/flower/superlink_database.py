"""Whether a SuperLink's database is one that this version of Flower made or can bring up to date.

Flower numbers the forms of its database with Alembic. It upgrades an older one by itself; of a newer one it knows
nothing, and ends with a traceback. So the file is looked at first.

Source: `flwr.supercore.state.alembic` of Flower 1.41, private; a contract test makes a database and looks at it.
"""

import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from flwr.supercore.state.alembic.utils import ALEMBIC_DIR, ALEMBIC_VERSION_TABLE

from fedhealth.errors import ConfigInvalid


def check_database(path: Path) -> None:
    """Return if there is no database yet, or one that this version of Flower can use.

    Args:
        path: of the SQLite file.

    Raises:
        ConfigInvalid: it is another version's, or no database of a SuperLink.
    """
    if not path.exists() or path.stat().st_size == 0:
        return
    wanted = f"one of Flower {version('flwr')} or before"
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            rows = database.execute(f"SELECT version_num FROM {ALEMBIC_VERSION_TABLE}").fetchall()  # noqa: S608
    except sqlite3.Error as error:
        raise _refused(path, f"a file that cannot be read as one ({error})", wanted) from error
    known = {script.revision for script in _scripts().walk_revisions()}
    unknown = sorted(str(revision) for (revision,) in rows if revision not in known)
    if unknown or not rows:
        raise _refused(path, f"a database of form {', '.join(unknown) or 'nothing'}", wanted)


def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(ALEMBIC_DIR))
    config.set_main_option("path_separator", "os")
    config.set_main_option("version_locations", str(ALEMBIC_DIR / "versions"))
    return ScriptDirectory.from_config(config)


def _refused(path: Path, got: str, wanted: str) -> ConfigInvalid:
    return ConfigInvalid(
        f"the SuperLink's database {path} cannot be used",
        got=got,
        wanted=wanted,
        next_step="Move it away: nothing of a study is in it, and the sites' keys are registered again by themselves.",
    )

"""The two folders of open articles in a site's state: what it publishes, and what its node fetches.

| folder | written by | read by |
|---|---|---|
| `published/` | an administrator's command | the node, the gate's domain |
| `fetched/` | the node | the gate's domain |

Neither lies in the folder of a process that others must not believe: a confined gate cannot write to either, and root
never writes where the node does. Loads nothing heavy, because a node is confined soon after.
"""

import os
from pathlib import Path

PUBLISHED, FETCHED = "published", "fetched"
_MODE = 0o750
"""The group of the state folder, which gate and node share, may read."""


def make_article_folders(root: Path) -> None:
    """Make both where they are missing: the first one this user's, the second the node's user's.

    Args:
        root: the site's state folder.

    Raises:
        OSError: this user may not.
    """
    node = root / "node"
    for name in (PUBLISHED, FETCHED):
        folder = root / name
        if not folder.exists():
            folder.mkdir()
            folder.chmod(_MODE)
            if os.geteuid() == 0:
                owner = node.stat().st_uid if name == FETCHED and node.exists() else 0
                os.chown(folder, owner, root.stat().st_gid)

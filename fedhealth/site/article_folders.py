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
_MODE = 0o755
"""Articles are public; who may pass is for the state folder to say."""


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
            if name == FETCHED and os.geteuid() == 0 and node.exists():
                os.chown(folder, node.stat().st_uid, node.stat().st_gid)

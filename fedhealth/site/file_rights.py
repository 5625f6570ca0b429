"""Which Unix user may do what with a file, read off owners and modes without becoming that user.

Access lists and security modules are beyond it: they can forbid what it calls allowed, and an access list can allow
what it calls forbidden. Which user should be able to do what is left to the caller.
"""

import contextlib
import os
import pwd
import stat
from pathlib import Path

from fedhealth.site.isolation import user_ids


def groups_of(user: str) -> tuple[int, frozenset[int]]:
    """Return the id and the groups of a user, given by name or number.

    Raises:
        ConfigInvalid: there is no such user.
    """
    (number,) = user_ids([user])
    try:
        entry = pwd.getpwuid(number)
    except KeyError:  # in a container, a user need not have a name
        return number, frozenset({number})
    return number, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))


def may(path: Path, user: int, groups: frozenset[int], what: int) -> bool:
    """Return whether a user may do something with a file or folder, by owners and modes of all that leads to it.

    Args:
        path: what.
        user: the user's id.
        groups: ids of the groups that the user is in.
        what: `stat.S_IROTH` to read, `stat.S_IWOTH` to write.
    """
    if user == 0:
        return True

    def allows(place: Path, wanted: int) -> bool:
        status = place.stat()
        shift = 6 if status.st_uid == user else 3 if status.st_gid in groups else 0
        return bool(status.st_mode & (wanted << shift))

    with contextlib.suppress(OSError):
        whole = path.resolve()
        return all(allows(parent, stat.S_IXOTH) for parent in whole.parents) and allows(whole, what)
    return False

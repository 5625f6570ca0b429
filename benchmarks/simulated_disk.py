"""A disk that records what is done to it, and what a power cut may leave of it.

Recording: an apsw VFS below the ledger's checksum VFS notes every write, truncation and sync of SQLite, an audit hook
what Python itself does to files. The process must make it before it opens a database, and has it for good.

A power cut: what was synced is there. What was not may be lost, kept, or there in part: each operation by itself, or
each sector of 512 or 4096 bytes in any version it had since the last sync, so that writes between two syncs are
reordered and torn; what a file grew by may be zeros or junk. Names are as they were at any time since their folder was
synced.

Source: SQLite's unix VFS, for what the VFS interface does not show (the first sync of a new log syncs its folder too).
"""

import itertools
import json
import os
import random
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import apsw

Cut = Literal["nothing unsynced", "everything", "sectors", "operations"]
CUTS: tuple[Cut, ...] = ("nothing unsynced", "sectors", "operations", "sectors", "everything")
Image = dict[str, bytes]
"""Files by name."""

Operation = dict[str, Any]


class RecordingDisk(apsw.VFS):
    """SQLite's disk, with every operation on the files of one folder written to standard output."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers, self._next = folder, {}, itertools.count()
        super().__init__("recording", base="unix", makedefault=True)
        for path in folder.iterdir():
            self.named("find", path)
        sync = os.fsync

        def recorded_sync(descriptor: int) -> None:
            sync(descriptor)
            if Path(f"/proc/self/fd/{descriptor}").readlink() == folder:
                say("sync-folder")

        os.fsync = recorded_sync
        sys.addaudithook(self._hook)

    def named(self, kind: str, path: Path) -> None:
        """Note a file of the folder whose name is new."""
        if path.parent == self._folder and path.name not in self._numbers:
            self._numbers[path.name] = next(self._next)
            say(kind, name=path.name, file=self._numbers[path.name])

    def _hook(self, event: str, arguments: tuple) -> None:
        if event == "open" and not isinstance(arguments[0], int) and (arguments[2] or 0) & os.O_CREAT:
            self.named("create", Path(os.fsdecode(arguments[0])))
        elif event == "os.rename" and Path(arguments[0]).parent == self._folder:
            before, after = Path(arguments[0]).name, Path(arguments[1]).name
            self._numbers[after] = self._numbers.pop(before)
            say("rename", name=before, to=after)
        elif event == "os.remove" and Path(arguments[0]).parent == self._folder:
            self.removed(Path(arguments[0]))

    def removed(self, path: Path) -> None:
        """Note that a name is gone."""
        if path.name in self._numbers:  # else there is nothing to remove
            del self._numbers[path.name]
            say("remove", name=path.name)

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - apsw's
        """Open a file; one in the folder records."""
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "")
        if path.parent != self._folder:
            return apsw.VFSFile("unix", name, flags)
        is_new = path.name not in self._numbers
        self.named("create", path)
        is_log = bool(flags[0] & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL))
        return RecordingFile(name, flags, self._numbers[path.name], is_new and is_log)

    def xDelete(self, name: str, sync_folder: bool) -> None:  # noqa: N802 - apsw's
        """Delete a file."""
        self.removed(Path(name))
        super().xDelete(name, sync_folder)
        if sync_folder:
            say("sync-folder")


class RecordingFile(apsw.VFSFile):
    """A file of the folder."""

    def __init__(self, name: apsw.URIFilename | str, flags: list[int], number: int, syncs_folder: bool) -> None:
        super().__init__("unix", name, flags)
        self._number, self._syncs_folder = number, syncs_folder

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - apsw's
        """Write."""
        super().xWrite(data, offset)
        say("write", file=self._number, at=offset, data=data.hex())

    def xTruncate(self, size: int) -> None:  # noqa: N802 - apsw's
        """Truncate."""
        super().xTruncate(size)
        say("truncate", file=self._number, size=size)

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw's
        """Sync."""
        super().xSync(flags)
        say("sync", file=self._number)
        if self._syncs_folder:
            say("sync-folder")
            self._syncs_folder = False


def say(kind: str, **fields: str | int) -> None:
    """Write an operation to standard output."""
    print(json.dumps({"kind": kind, **fields}))


@dataclass
class File:
    """What a file is for certain, and what was done to it since: the offset and bytes of writes, or a new size."""

    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def left(self, cut: Cut, draw: random.Random) -> bytes:
        """Return what a power cut leaves of it."""
        if cut == "nothing unsynced" or not self.pending:
            return self.durable
        sizes = [len(self.durable)]
        for offset, data in self.pending:
            sizes.append(offset if data is None else max(sizes[-1], offset + len(data)))
        grown = max(sizes) - sizes[0]
        junk = cut == "sectors" and draw.random() < 0.5
        content = bytearray(self.durable + (draw.randbytes(grown) if junk else bytes(grown)))
        sector, most = draw.choice((512, 4096)), len(self.pending)
        # A sector takes the first of its writes, as many as are drawn for it.
        takes = defaultdict[int, int](lambda: draw.choice((0, 1, 2, most)) if cut == "sectors" else most)
        for offset, data in self.pending:
            if data is None or (cut == "operations" and draw.random() < 0.5):
                continue
            place, end = offset, offset + len(data)
            while place < end:
                number = place // sector
                part_end = min(end, (number + 1) * sector)
                if takes[number] > 0:
                    content[place:part_end] = data[place - offset : part_end - offset]
                takes[number] -= 1
                place = part_end
        size = sizes[-1] if cut == "everything" or draw.random() < 0.5 else draw.choice(sizes)
        return bytes(content[:size])


class Disk:
    """A folder: what is certain, and what was done since."""

    def __init__(self, start: Image) -> None:
        self.start, self.files, self.names, self.changes = start, {}, {}, []

    def apply(self, operation: Operation) -> None:
        """Take one recorded operation."""
        kind, file = operation["kind"], self.files.get(operation.get("file"))
        if kind == "find":
            self.files[operation["file"]] = File(self.start[operation["name"]])
            self.names[operation["name"]] = operation["file"]
        elif kind in ("create", "rename", "remove"):
            self.changes.append(operation)
            if kind == "create":
                self.files[operation["file"]] = File()
        elif kind == "sync-folder":
            self.names, self.changes = self._named(len(self.changes)), []
        elif kind == "sync":
            file.durable, file.pending = file.left("everything", random.Random()), []  # noqa: S311 - draws nothing
        elif kind == "truncate":
            file.pending.append((operation["size"], None))
        else:
            file.pending.append((operation["at"], bytes.fromhex(operation["data"])))

    def left(self, cut: Cut, draw: random.Random) -> Image:
        """Return what a power cut leaves."""
        changes = len(self.changes)
        if cut != "everything":
            changes = 0 if cut == "nothing unsynced" else draw.randint(0, changes)
        return {name: self.files[number].left(cut, draw) for name, number in self._named(changes).items()}

    def _named(self, changes: int) -> dict[str, int]:
        names = dict(self.names)
        for change in self.changes[:changes]:
            if change["kind"] == "create":
                names[change["name"]] = change["file"]
            elif change["kind"] == "rename":
                names[change["to"]] = names.pop(change["name"])
            else:
                names.pop(change["name"])
        return names

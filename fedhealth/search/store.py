"""The system of record of an index: documents, passages, codes and vectors in one SQLite file.

Everything else in an index can be made again from this file. It also holds what is still to be done elsewhere:
`lexical_work` and `vector_work` name passages to be put into, or taken out of, the other two structures, so that a
process that is killed leaves a list and not a doubt.

Invariants: one transaction per change, `synchronous=FULL`; deleted content is overwritten (`secure_delete`); the number
of a passage is never used again; a file of another format is refused.

Source: SQLite, https://www.sqlite.org/pragma.html#pragma_secure_delete and https://www.sqlite.org/lang_vacuum.html.
Leaves to others: who may write (`generations`), what a generation is (`index`), the reading of texts.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import numpy.typing as npt

from fedhealth.errors import DataUnusable
from fedhealth.search.documents import Document, ReadDocument
from fedhealth.search.stored_rows import (
    DOCUMENT_COLUMNS,
    PASSAGE_QUERY,
    Ancestors,
    StoredPassage,
    content_digest,
    document_columns,
    document_of,
    mention_rows,
    stored_passage,
)

FORMAT = 2
APPLICATION = 0x46485349  # "FHSI", so that `file` and we tell it from any other SQLite file
FILE = "index.sqlite"
BUSY_MILLISECONDS = 30_000
SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (
  id INTEGER PRIMARY KEY AUTOINCREMENT, source TEXT NOT NULL, key TEXT NOT NULL, patient TEXT, kind TEXT NOT NULL,
  title TEXT NOT NULL, text TEXT NOT NULL, day INTEGER, language_stated TEXT, age INTEGER, sex TEXT,
  codes TEXT NOT NULL, digest BLOB NOT NULL, language TEXT NOT NULL, stated TEXT NOT NULL,
  UNIQUE (source, key)
);
CREATE INDEX documents_by_patient ON documents (patient);
CREATE TABLE document_codes (
  code TEXT, document INTEGER, PRIMARY KEY (code, document)
) WITHOUT ROWID;
CREATE INDEX codes_by_document ON document_codes (document);
CREATE TABLE passages (
  id INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, number INTEGER NOT NULL, section TEXT NOT NULL,
  start INTEGER NOT NULL, stop INTEGER NOT NULL, text TEXT NOT NULL, spans TEXT NOT NULL, mentions TEXT NOT NULL
);
CREATE INDEX passages_by_document ON passages (document);
CREATE TABLE vectors (passage INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE INDEX passages_with_vector ON vectors (passage);  -- to count them without reading them
CREATE TABLE vector_parts (number INTEGER PRIMARY KEY, version INTEGER NOT NULL, dirty INTEGER NOT NULL);
CREATE TABLE lexical_work (passage INTEGER PRIMARY KEY);
CREATE TABLE vector_work (passage INTEGER PRIMARY KEY);
CREATE TABLE former_patients (patient TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class Store:
    """One open SQLite file.

    Args:
        path: of the file, which must exist.
        any_format: to read the documents of an index of another format, and nothing else.

    Raises:
        DataUnusable: it is missing, no index, or of another format.
    """

    def __init__(self, path: Path, *, any_format: bool = False) -> None:
        try:
            self._database = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        except apsw.Error as error:
            raise _unreadable(path, error) from error
        try:
            self._prepare()
            self.format = int(self._database.pragma("user_version"))
            ours = self._database.pragma("application_id") == APPLICATION
        except apsw.Error as error:
            self._database.close()
            raise _unreadable(path, error) from error
        if not ours or (self.format != FORMAT and not any_format):
            self._database.close()
            raise DataUnusable(
                f"the index at {path.parent.parent} cannot be used by this version",
                got=f"format {self.format}" if ours else "a file of something else",
                wanted=f"format {FORMAT}",
                next_step="Make it anew from the documents in it: fedhealth site index rebuild",
            )

    @classmethod
    def create(cls, path: Path, first_passage: int = 1) -> "Store":
        """Make an empty file; passages are numbered from `first_passage` on."""
        path.touch(mode=0o600)
        database = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        database.pragma("secure_delete", True)
        database.pragma("journal_mode", "wal")
        database.execute(SCHEMA)
        database.execute("INSERT INTO sqlite_sequence VALUES ('passages', ?)", (first_passage - 1,))
        database.pragma("application_id", APPLICATION)
        database.pragma("user_version", FORMAT)
        database.close()
        return cls(path)

    def _prepare(self) -> None:
        self._database.set_busy_timeout(BUSY_MILLISECONDS)
        self._database.pragma("secure_delete", True)
        self._database.pragma("journal_mode", "wal")
        self._database.pragma("synchronous", "full")
        self._database.pragma("temp_store", "memory")

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def transaction(self) -> AbstractContextManager[apsw.Connection]:
        """Return a block after which all of its changes are durable, or none."""
        return self._database

    def changes_seen(self) -> tuple[int, int]:
        """Return what differs from the last time if another process, or this one, has changed the file since."""
        return int(self._database.pragma("data_version")), self._database.total_changes()

    def fact(self, name: str) -> str | None:
        """Return a fact about this index, or None."""
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).get
        return None if row is None else str(row)

    def set_fact(self, name: str, value: str | None) -> None:
        """State a fact about this index, or take it back."""
        if value is None:
            self._database.execute("DELETE FROM facts WHERE name = ?", (name,))
        else:
            self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def numbers(self, query: str, values: Sequence[Any] = ()) -> list[int]:
        """Return the first column of a query of ours, which holds whole numbers."""
        return [int(row[0]) for row in self._database.execute(query, values)]

    def rows(self, query: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query of ours."""
        yield from self._database.execute(query, values)

    def change(self, statement: str, values: Iterable[Sequence[Any]]) -> None:
        """Carry out a statement of ours once for each of the values."""
        self._database.executemany(statement, values)

    def holds(self, document: Document) -> bool | None:
        """Return whether this very content is kept; None if nothing is kept under its key."""
        query = "SELECT digest FROM documents WHERE source = ? AND key = ?"
        kept = self._database.execute(query, (document.source, document.key)).get
        return None if kept is None else kept == content_digest(document)

    def put(self, document: Document, read: ReadDocument, ancestors: Ancestors) -> list[int]:
        """Keep a document in place of the one with its key, and return the numbers of its passages."""
        self.drop(document.source, document.key, unless_of=document.patient)
        codes = [f"{code.system}:{code.value}" for code in document.codes]
        stated = sorted({each for code in codes for each in (code, *ancestors(code))})
        self._database.execute(
            f"INSERT INTO documents ({DOCUMENT_COLUMNS}, digest, language, stated) "  # noqa: S608 - a constant
            "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (*document_columns(document), content_digest(document), read.language, json.dumps(stated)),
        )
        number = self._database.last_insert_rowid()
        held, kept = set(stated), []
        rows = mention_rows(read.mentions, read.passages, ancestors)
        for each, mentions in zip(read.passages, rows, strict=True):
            for _, _, concept, _, assertion, above in mentions:
                held |= {concept, *above} if assertion == "affirmed" else set()
            self._database.execute(
                "INSERT INTO passages (document, number, section, start, stop, text, spans, mentions) "
                "VALUES (?,?,?,?,?,?,?,?)",
                (
                    *(number, each.number, each.section, each.start, each.end, each.text),
                    *(json.dumps(each.spans), json.dumps(mentions)),
                ),
            )
            kept.append(self._database.last_insert_rowid())
        self.change("INSERT INTO document_codes VALUES (?, ?)", ((code, number) for code in sorted(held)))
        self.change("INSERT INTO lexical_work VALUES (?)", ((each,) for each in kept))
        return kept

    def drop(self, source: str, key: str, unless_of: str | None = None) -> int:
        """Drop a document if it is kept, and return how many there were; files elsewhere still hold its words."""
        query = "SELECT id, patient FROM documents WHERE source = ? AND key = ?"
        found = list(self.rows(query, (source, key)))
        for number, patient in found:
            if patient is not None and patient != unless_of:
                self._database.execute("INSERT OR IGNORE INTO former_patients VALUES (?)", (patient,))
            self._drop_document(number)
        return len(found)

    def drop_patient(self, patient: str) -> tuple[int, int]:
        """Drop everything of a patient, and return how many documents and passages that was."""
        found = self.numbers("SELECT id FROM documents WHERE patient = ?", (patient,))
        self._database.execute("DELETE FROM former_patients WHERE patient = ?", (patient,))
        return len(found), sum(self._drop_document(number) for number in found)

    def _drop_document(self, number: int) -> int:
        passages = [(each,) for each in self.numbers("SELECT id FROM passages WHERE document = ?", (number,))]
        self.change("INSERT OR IGNORE INTO lexical_work VALUES (?)", passages)
        self.change(
            "INSERT OR IGNORE INTO vector_work SELECT passage FROM vectors WHERE passage = ?",
            passages,
        )
        self.change("DELETE FROM vectors WHERE passage = ?", passages)
        for statement in (
            "DELETE FROM passages WHERE document = ?",
            "DELETE FROM document_codes WHERE document = ?",
            "DELETE FROM documents WHERE id = ?",
        ):
            self._database.execute(statement, (number,))
        return len(passages)

    def documents(self) -> Iterator[tuple[int, Document]]:
        """Yield all documents with their numbers; also of a file of another format, if it keeps documents alike."""
        last = 0
        query = f"SELECT id, {DOCUMENT_COLUMNS} FROM documents WHERE id > ? ORDER BY id LIMIT 64"  # noqa: S608
        while rows := list(self.rows(query, (last,))):
            for number, *columns in rows:
                yield number, document_of(columns)
            last = rows[-1][0]

    def document(self, source: str, key: str) -> Document | None:
        """Return a document with its text, or None if there is none."""
        query = f"SELECT {DOCUMENT_COLUMNS} FROM documents WHERE source = ? AND key = ?"  # noqa: S608 - a constant
        row = self._database.execute(query, (source, key)).fetchone()
        return None if row is None else document_of(row)

    def passages(self, ids: Collection[int]) -> list[StoredPassage]:
        """Return passages in the order asked for, of one state of the file; those that went meanwhile are left out."""
        with self._database:
            found = list(self.passages_in_turn(ids))
        return found  # noqa: RET504 - mypy holds that the block could end without returning

    def passages_in_turn(self, ids: Iterable[int]) -> Iterator[StoredPassage]:
        """Yield passages in the order asked for; those that went meanwhile are left out."""
        for each in ids:
            row = self._database.execute(PASSAGE_QUERY, (each,)).fetchone()
            if row is not None:
                yield stored_passage(row)

    def indexable(self, ids: Collection[int] | None) -> Iterator[tuple[StoredPassage, list[str]]]:
        """Yield passages, of all or of some documents, with every concept that their document holds."""
        if ids is None:
            ids = self.numbers("SELECT id FROM passages ORDER BY id")
        document, held = None, []
        for each in self.passages_in_turn(ids):
            key = (each.document.source, each.document.key)
            if key != document:
                query = "SELECT code FROM document_codes WHERE document = (SELECT document FROM passages WHERE id = ?)"
                document, held = key, [str(row[0]) for row in self.rows(query, (each.id,))]
            yield each, held

    def put_vectors(self, ids: Sequence[int], vectors: npt.NDArray[np.float32]) -> None:
        """Keep vectors of passages that are still there."""
        for number, row in zip(ids, vectors.astype(np.float16), strict=True):
            values = {"passage": number, "vector": row.tobytes()}
            there = "SELECT :passage{} WHERE EXISTS (SELECT 1 FROM passages WHERE id = :passage)"
            self._database.execute("INSERT OR IGNORE INTO vectors " + there.format(", :vector"), values)
            self._database.execute("INSERT OR IGNORE INTO vector_work " + there.format(""), values)

    def copy_vectors(self, vectors: Iterable[tuple[int, bytes]]) -> None:
        """Keep vectors of passages as another store kept them."""
        for number, vector in vectors:
            self._database.execute("INSERT INTO vectors VALUES (?, ?)", (number, vector))

    def vectors_by_text(self, document: int) -> dict[str, bytes]:
        """Return the vectors of a document's passages by what they were made of."""
        query = "SELECT text, vector FROM passages JOIN vectors ON passage = id WHERE document = ?"
        return dict(self.rows(query, (document,)))

    def last_passage(self) -> int:
        """Return the highest number that a passage ever had."""
        return max(self.numbers("SELECT seq FROM sqlite_sequence WHERE name = 'passages'"), default=0)

    def is_former(self, patient: str) -> bool:
        """Return whether other files may still hold words of a document that was the patient's once."""
        query = "SELECT count(*) FROM former_patients WHERE patient = ?"
        return bool(self._database.execute(query, (patient,)).get)

    def vectors(self, ids: Sequence[int]) -> tuple[list[int], npt.NDArray[np.float16]]:
        """Return which of these passages have a vector, and the vectors, one a row."""
        found: list[int] = []
        blobs: list[bytes] = []
        for each in ids:
            blob = self._database.execute("SELECT vector FROM vectors WHERE passage = ?", (each,)).get
            if blob is not None:
                found.append(each)
                blobs.append(blob)
        return found, np.frombuffer(b"".join(blobs), dtype=np.float16).reshape(len(found), -1 if found else 0)

    def copy_to(self, path: Path) -> None:
        """Write what is kept, and nothing of what is not any more, to a new file."""
        path.touch(mode=0o600)
        self._database.execute("VACUUM INTO ?", (str(path),))


def _unreadable(path: Path, error: Exception) -> DataUnusable:
    return DataUnusable(
        f"the index at {path.parent.parent} cannot be opened",
        got=type(error).__name__,
        next_step="Check the disk and the owner of the folder; or remove it and add the documents again.",
    )

"""Articles, one JSON object a line, as indexes of the literature export them. They are of no patient."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedhealth.search.documents import Document
from fedhealth.search.readers.facts import content_key, date_in, key_of
from fedhealth.search.readers.problem import (
    MAX_FILE_BYTES,
    Found,
    Problem,
    checked,
    cleaned,
    files_below,
    made,
    one_line,
)
from fedhealth.search.search_file import Articles

_KEYS = ("pmid", "_id", "id")
_TEXTS = ("abstract", "text", "contents")
_ENDINGS = (".jsonl", ".ndjson")


def read_articles(source: Articles, path: Path) -> Found:
    """Yield the articles of a file, or of all `.jsonl` files of a folder.

    Args:
        source: how it is named and read.
        path: where.
    """
    for file, name in files_below(path, _ENDINGS):
        for place, line in lines_of(file, name):
            yield _article(source, line, place)


def lines_of(file: Path, name: str) -> Iterator[tuple[str, bytes | None]]:
    """Yield a file's lines that are not empty, each with its place; None for one that is too long to be read."""
    with file.open("rb") as opened:
        number = 0
        while line := opened.readline(MAX_FILE_BYTES + 1):
            number += 1
            place = f"{name} line {number}"
            if len(line) <= MAX_FILE_BYTES:
                if line.strip():
                    yield place, line
                continue
            while line and not line.endswith(b"\n"):
                line = opened.readline(MAX_FILE_BYTES)
            yield place, None


def json_object(line: bytes | None) -> Mapping[str, Any] | str:
    """Return the JSON object in some bytes, or why there is none."""
    if line is None:
        return f"longer than {MAX_FILE_BYTES // 2**20} MiB"
    try:
        found = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return "no JSON in UTF-8"
    return found if isinstance(found, dict) else "no JSON object"


def _article(source: Articles, line: bytes | None, place: str) -> Document | Problem:
    found = json_object(line)
    if isinstance(found, str):
        return Problem(source.name, place, found)
    fields = source.text_fields or tuple(name for name in _TEXTS if name in found)[:1]
    text = cleaned("\n".join(filter(None, (_text(found.get(name)) for name in fields))))
    title = _text(found.get(source.title_field))
    if (why := checked(text)) is not None:
        return Problem(source.name, place, why)
    names = (source.key_field,) if source.key_field else _KEYS
    key = next((_text(found[name]) for name in names if found.get(name) not in (None, "")), "")
    return made(
        lambda: Document(
            key=key_of(key) if key else content_key(title, text),
            patient=None,
            kind="article",
            title=one_line(title),
            text=text,
            date=date_in(_text(found.get(source.date_field))),
            language=source.language,
            source=source.name,
        ),
        source.name,
        place,
    )


def _text(value: object) -> str:
    if isinstance(value, list):
        return "\n".join(filter(None, map(_text, value)))
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""

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
    opened,
    unread,
)
from fedhealth.search.search_file import Articles

_KEYS = ("pmid", "_id", "id")
_TEXTS = ("abstract", "text", "contents")
_ENDINGS = (".jsonl", ".ndjson")

MAX_JSON_PARTS = 6_000_000
"""Of one object: each takes up to a hundred bytes of memory, and three in the file may be one."""


def read_articles(source: Articles, path: Path) -> Found:
    """Yield the articles of a file, or of all `.jsonl` files of a folder.

    Args:
        source: how it is named and read.
        path: where.
    """
    for file, name in files_below(path, _ENDINGS):
        for place, line in lines_of(file, name):
            yield read_article(source, json_object(line), place)


def lines_of(file: Path, name: str) -> Iterator[tuple[str, bytes | str]]:
    """Yield a file's lines that are not empty, each with its place; in place of one that is not read, why."""
    try:
        lines = opened(file)
    except OSError as error:
        yield name, unread(error)
        return
    with lines:
        number = 0
        while line := lines.readline(MAX_FILE_BYTES + 1):
            number += 1
            place = f"{name} line {number}"
            if len(line) <= MAX_FILE_BYTES:
                if line.strip():
                    yield place, line
                continue
            while line and not line.endswith(b"\n"):
                line = lines.readline(MAX_FILE_BYTES)
            yield place, f"longer than {MAX_FILE_BYTES // 2**20} MiB"


def json_object(line: bytes | str) -> Mapping[str, Any] | str:
    """Return the JSON object in some bytes, or why there is none; of what was not read, why it was not."""
    if isinstance(line, str):
        return line
    if sum(map(line.count, (b"{", b"[", b","))) > MAX_JSON_PARTS:
        return f"of more than {MAX_JSON_PARTS:,} parts: they would not fit into memory. Split it"
    try:
        found = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return "no JSON in UTF-8"
    return found if isinstance(found, dict) else "no JSON object"


def read_article(source: Articles, found: Mapping[str, Any] | str, place: str) -> Document | Problem:
    """Return the article in a JSON object, or what is wrong with it.

    Args:
        source: how it is read.
        found: what `json_object` returned.
        place: where it was.
    """
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

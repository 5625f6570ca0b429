"""Files of text, RTF or PDF as documents, one each; whose they are, their paths say."""

import re
from pathlib import Path

from fedhealth.search.documents import Document
from fedhealth.search.readers.facts import date_in, key_of
from fedhealth.search.readers.problem import Found, Problem, checked, cleaned, files_below, made, one_line, read_whole
from fedhealth.search.readers.written_forms import text_in
from fedhealth.search.search_file import TextFiles

_FIELD = re.compile(r"\{([^}]*)\}")


def read_text_files(source: TextFiles, path: Path) -> Found:
    """Yield the documents of a folder of files.

    Args:
        source: how it is named and read.
        path: the folder, or one file.
    """
    pattern = _pattern_of(source.names)
    for file, place in files_below(path):
        yield from _read(source, pattern, file, place)


def _read(source: TextFiles, pattern: re.Pattern[str], file: Path, place: str) -> Found:
    named = pattern.fullmatch(place)
    if named is None:
        yield Problem(source.name, place, f"its name is not like '{source.names}', so it does not say whose it is")
        return
    raw = read_whole(file)
    decoded = raw if isinstance(raw, str) else text_in(raw)
    if isinstance(decoded, str):
        yield Problem(source.name, place, decoded)
        return
    text = cleaned(decoded.text)
    if (why := checked(text)) is not None:
        yield Problem(source.name, place, why)
        return
    if decoded.remark:
        yield Problem(source.name, place, decoded.remark, "noted")
    said = named.groupdict(default="")
    yield made(
        lambda: Document(
            key=key_of(place),
            patient=said["patient"].strip(),
            kind=source.kind,
            title=one_line(said.get("title", "")),
            text=text,
            date=date_in(said.get("date", "")),
            language=source.language,
            source=source.name,
        ),
        source.name,
        place,
    )


def _pattern_of(names: str) -> re.Pattern[str]:
    """Return what a file's path must be like: a field is as short as can be and crosses no folder."""
    parts, at = [], 0
    for field in _FIELD.finditer(names):
        parts.append(re.escape(names[at : field.start()]))
        parts.append("[^/]*?" if field[1] == "*" else f"(?P<{field[1]}>[^/]+?)")
        at = field.end()
    return re.compile("".join(parts) + re.escape(names[at:]))

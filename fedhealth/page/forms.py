"""What a person typed into the page's forms, made into a question or a count; or why it cannot be."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import get_args

from fedhealth.errors import ConfigInvalid, DataUnusable
from fedhealth.page.messages import MAX_QUESTION_CHARACTERS, Only, SearchAsked
from fedhealth.search.documents import MAX_AGE_YEARS, MAX_NAME_CHARACTERS, Code, Kind, Sex
from fedhealth.search.typed_filter import Ages, first_day, last_day, typed_ages, typed_code
from fedhealth.site.asking import Asker, PreparedCount
from fedhealth.study.count_query import AGE_BAND, MAX_CODES, OLDEST, CountQuery

Typed = Mapping[str, Sequence[str]]
AGES = tuple(range(0, OLDEST + 1, AGE_BAND))


class FormWrong(Exception):
    """A form cannot be taken as it is.

    Attributes:
        words: name in the page's table.
        values: for the places in those words.
    """

    def __init__(self, words: str, **values: str) -> None:
        super().__init__(words)
        self.words, self.values = words, values


def typed_in(form: Typed, name: str) -> str:
    """Return what was typed into a field; nothing if there is no such field."""
    values = form.get(name, ())
    return values[0].strip() if values else ""


def question_of(form: Typed) -> SearchAsked:
    """Return the question that a form asks.

    Raises:
        FormWrong: it asks none.
    """
    query = typed_in(form, "query")
    if not any(each.isalnum() for each in unicodedata.normalize("NFC", query)):
        raise FormWrong("bad_empty")
    if len(query) > MAX_QUESTION_CHARACTERS or len(typed_in(form, "patient")) > MAX_NAME_CHARACTERS:
        raise FormWrong("bad_long")
    query = query.encode(errors="replace").decode()
    ages, kinds, sex = _ages(typed_in(form, "age")), tuple(form.get("kind", ())), typed_in(form, "sex")
    if not set(kinds) <= set(get_args(Kind)) or sex not in ("", *get_args(Sex)):
        raise FormWrong("bad_choice")
    since, until = typed_in(form, "since"), typed_in(form, "until")
    first, last = first_day(since), last_day(until)
    if since and first is None:
        raise FormWrong("bad_since")
    if until and last is None:
        raise FormWrong("bad_until")
    only = Only(
        kinds=kinds,  # type: ignore[arg-type]  # looked at above
        since=first,
        until=last,
        youngest=ages.youngest,
        oldest=ages.oldest,
        sex=sex or None,  # type: ignore[arg-type]
        codes=tuple(f"{code.system}:{code.value}" for code in _codes(typed_in(form, "code"))),
        patient=typed_in(form, "patient").encode(errors="replace").decode() or None,
    )
    try:
        only.filter()
    except DataUnusable:
        raise FormWrong("bad_order") from None
    return SearchAsked(query=query, only=only, include_negated=bool(typed_in(form, "negated")))


def _ages(text: str) -> Ages:
    ages = typed_ages(text) if text else Ages(None, None)
    if ages is None or any(each is not None and each > MAX_AGE_YEARS for each in ages):
        raise FormWrong("bad_age")
    return ages


def _codes(text: str) -> list[Code]:
    found = []
    for word in text.replace(",", " ").replace(";", " ").split()[:20]:
        code = typed_code(word)
        if code is None or "+" in code.value:
            raise FormWrong("bad_code")
        found.append(code)
    return found


def count_form(asked: SearchAsked | None, proposed: Sequence[tuple[str, bool]]) -> dict[str, list[str]]:
    """Return a count's form as it is proposed from a question's codes, ages and sex; every field can be changed.

    Ages are widened to whole bands of five years.
    """
    form: dict[str, list[str]] = {}
    for number, (code, unwanted) in enumerate(proposed, start=1):
        form[f"code{number}"] = [code]
        form[f"has{number}"] = ["without" if unwanted else "having"]
    if asked is not None:
        if asked.only.youngest is not None or asked.only.oldest is not None:
            youngest, oldest = asked.only.youngest or 0, min(asked.only.oldest or OLDEST, OLDEST - 1)
            form["youngest"] = [str(min(youngest, oldest) // AGE_BAND * AGE_BAND)]
            form["oldest"] = [str((oldest // AGE_BAND + 1) * AGE_BAND)]
        form["sex"] = [asked.only.sex or ""]
    return form


def form_of_query(query: CountQuery) -> dict[str, list[str]]:
    """Return the form that asks a query."""
    codes = [(code, False) for code in query.all_of] + [(code, True) for code in query.none_of]
    form = count_form(None, codes)
    if query.ages is not None:
        form["youngest"], form["oldest"] = ([str(each)] for each in query.ages)
    form["sex"] = [query.sex or ""]
    return form


def prepared_of(form: Typed, asker: Asker, now: int) -> PreparedCount:
    """Return the count that a form asks, signed; nothing leaves.

    Args:
        form: what was typed.
        asker: who asks.
        now: milliseconds since 1970.

    Raises:
        FormWrong: it asks none that may leave.
    """
    codes: dict[str, list[str]] = {"having": [], "without": []}
    for number in range(1, MAX_CODES + 1):
        typed, side = typed_in(form, f"code{number}"), typed_in(form, f"has{number}") or "having"
        if not typed:
            continue
        code = typed_code(typed)
        if code is None or "+" in code.value:
            raise FormWrong("bad_count_code", code=typed[:40])
        if side not in codes:
            raise FormWrong("bad_choice")
        codes[side].append(f"{code.system}:{code.value}")
    low, high, sex = typed_in(form, "youngest"), typed_in(form, "oldest"), typed_in(form, "sex")
    if sex not in ("", *get_args(Sex)) or not {low, high} <= {"", *map(str, AGES)}:
        raise FormWrong("bad_choice")
    ages = (int(low or 0), int(high or OLDEST)) if low or high else None
    if ages is not None and ages[0] >= ages[1]:
        raise FormWrong("bad_count_ages")
    try:
        chosen: Sex | None = sex or None  # type: ignore[assignment]  # looked at above
        return asker.prepare(tuple(codes["having"]), tuple(codes["without"]), ages, chosen, now)
    except ConfigInvalid:
        raise FormWrong("bad_count_codes") from None

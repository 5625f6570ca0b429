"""Negation in the languages around French and English, so that "sin fiebre" in a letter from abroad is not fever.

German, Spanish, Italian, Portuguese and Dutch; other languages have none of these words, and all of their text counts
as affirmed. Patterns as in `french_cues`.
"""

from fedhealth.search.cues import Cue, Grammar, table

_NEGATED = Cue(
    table("""
        kein(?:e|en|er|es|em)?
        nicht
        ohne
        weder
        verneint
        sin
        niega
        ningun(?:o|a)?
        ausencia de
        senza
        nega
        nessun(?:o|a)?
        assenza d
        sem
        nao
        ausencia
        geen
        zonder
        niet
        ontkent
        no
        non
        ni
    """),
    "negated",
    "behind",
    reach=8,
)
_SUPPOSED = Cue(
    table("""
        verdacht auf
        v\\.a\\.
        sospecha de
        sospetto
        sospetta
        suspeita de
        verdenking
        mogelijk(?:e)?
        moglich(?:e|er|es|en)?
        posible
        possibile
        possivel
    """),
    "hypothesis",
    "behind",
    reach=8,
)
_BARRIER = r";|\.(?= |$)|\baber\b|\bsondern\b|\bpero\b|\bma\b|\bmas\b|\bmaar\b|\bporem\b|\btuttavia\b|\bjedoch\b"

OTHER = Grammar(
    (_NEGATED, _SUPPOSED),
    barriers={
        "every": _BARRIER,
        "negated": r"\bmit\b|\bcon\b|\bcom\b|\bmet\b|:",
        "hypothesis": ":",
        "family": ":",
        "history": ":",
    },
    conjunction=r" (?:und|y|e|en|et|and) ",
    member=r" *(?:oder|o|ou|of|noch|ni|ne|nem|or) ",
    clause=r" *(?:der |die |das |el |la |il |lo |het |de |mit |con |com |met |patient|pazient|pacient)",
    alternative=r"(?:[^,;:.]{1,40},){0,8}[^,;:.]{0,40} (?:oder|o|ou|of|noch|ni|ne|nem) ",
    complement=r" *(?:[,;.:)?!(/]|$)",
    lists_by_commas=False,
)

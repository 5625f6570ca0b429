"""`fedhealth audit empirical`: every mechanism that ships, against what it claims."""

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fedhealth.cli.audit_text import empirical_lines
from fedhealth.cli.output import answer, say_lines, wants_json, warn
from fedhealth.errors import AUDIT_FAILED_EXIT_CODE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedhealth.compliance.subjects import Subject


def empirical(
    seed: Annotated[
        int | None, typer.Option(min=0, help="Repeat the run with this seed; a new one if not given.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, max=86_400, help="About how long to look; more finds smaller mistakes.")
    ] = 3.0,
) -> None:
    """Run every mechanism that ships and compare what it does with what it claims.

    It needs no data and no site. A run on correct mechanisms fails at most once
    in a hundred: if one fails, take another seed; if that fails too, stop the
    gates and report it (SECURITY.md).

    Exit codes: 0 passed; 12 a mechanism does not do what it claims.

    Example: fedhealth audit empirical
    """
    import secrets

    from fedhealth.compliance.empirical import audit_mechanisms
    from fedhealth.training.per_patient import make_deterministic

    make_deterministic()

    def watched(mechanisms: "tuple[Subject, ...]") -> "Iterator[Subject]":
        hidden = wants_json() or not sys.stderr.isatty()
        with typer.progressbar(mechanisms, label="mechanisms", file=sys.stderr, hidden=hidden) as one_by_one:
            yield from one_by_one

    found = audit_mechanisms(secrets.randbits(48) if seed is None else seed, seconds, watched=watched)
    answer(dataclasses.asdict(found))
    say_lines(empirical_lines(found))
    if not found.passed:
        warn("FAILED: a mechanism does not do what it claims.")
        raise typer.Exit(AUDIT_FAILED_EXIT_CODE)

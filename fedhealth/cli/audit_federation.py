"""`fedhealth audit budget`, `report` and `export`: one site, or all sites of a federation."""

import dataclasses
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhealth.cli.audit_arguments import (
    Evidence,
    Expected,
    Sources,
    WitnessKey,
    end_of_test_site,
    published_head,
    published_heads,
)
from fedhealth.cli.federation_text import failed_lines, register_lines, site_lines, total_lines
from fedhealth.cli.output import answer, remark, say, say_lines

if TYPE_CHECKING:
    from fedhealth.compliance.federation import Federation


def budget(
    path: Sources,
    evidence: Evidence = None,
    site: Expected = None,
    witness: WitnessKey = None,
) -> None:
    """Say what each data set's budget was spent on, after verifying the ledgers.

    Of several sites also what each study has used over all of them.

    Exit codes: those of `audit verify`; of several ledgers, that of the first
    which is not intact, or 3 if one that must be there is missing; each is named
    and the others are counted.

    Example: fedhealth audit budget runs/demo-DATE/state/hungary/gate
    """
    from fedhealth.compliance.budget import budget_use
    from fedhealth.compliance.totals import study_totals

    federation, one = _federation(path, evidence, site or (), witness)
    sides = {each.site: budget_use(each.history) for each in federation.sites}
    totals = study_totals(federation.sites)
    plain = [
        {
            "site": each.site,
            "head": each.history.ledger.verified.head,
            "ledger_key": each.history.ledger.verified.ledger_key,
            "budgets": [dataclasses.asdict(side) for side in sides[each.site]],
        }
        for each in federation.sites
    ]
    studies = [dataclasses.asdict(total) for total in totals]
    answer(plain[0] if one else {"sites": plain, "studies": studies, "failed": _failed(federation)})
    for each in federation.sites:
        say_lines(site_lines(each, sides[each.site], one))
    if not one:
        say_lines(total_lines(totals, len(federation.sites)))
    say("Shares of a cap bind. A plan's epsilon is informative: it holds for that plan")
    say("as committed in advance; epsilons of several studies do not add up.")
    _end(federation)


def report(
    path: Sources,
    out: Annotated[
        Path | None, typer.Option(metavar="PAGE", help="Write the register as an HTML page; a new file.")
    ] = None,
    studies: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Signed studies, for texts that are not beside a ledger.")
    ] = None,
    evidence: Evidence = None,
    site: Expected = None,
    witness: WitnessKey = None,
) -> None:
    """Make the register of processing: who approved what, why, on which ground, and what it cost.

    Of one site or of many, from ledgers or exported bundles alone, each verified
    first; it holds nothing that depends on patients. The page of --out loads
    nothing, prints on A4, and is for a data-protection officer.

    Exit codes: those of `audit budget`. A page that lacks a site says so.

    Example: fedhealth audit report bundles --studies studies --out register.html
    """
    from fedhealth.compliance.register import make_register
    from fedhealth.secret_file import create_file

    federation, _ = _federation(path, evidence, site or (), witness, studies)
    register = make_register(federation, time.time_ns() // 10**6)
    if out is not None:
        from fedhealth.compliance.register_page import render_register

        create_file(out, render_register(register).encode())
    answer(dataclasses.asdict(register))
    say_lines(register_lines(register))
    if out is not None:
        say(f"wrote {out}")
    _end(federation)


def export(
    path: Sources,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="BUNDLE", help="A new file; of several sites, a new folder."),
    ],
    key: Annotated[
        Path | None, typer.Option(help="The ledger's key; ledger.key beside the ledger if not given.")
    ] = None,
    site: Expected = None,
) -> None:
    """Write one signed file that a regulator can verify with this program alone.

    It holds the ledger's entries, its signed head, the coordinator's receipt
    and the signed studies: nothing that depends on patients. The local journal,
    salts and payloads stay. Run it as the gate's user, who has the key.
    Of several sites it writes a folder with one such file each; a bundle that is
    given is verified and goes along as it is. If one is missing or not intact,
    it is named and nothing is written.

    Exit codes: those of `audit budget`.

    Example: fedhealth audit export state/hungary/gate -o hungary.bundle
    """
    from fedhealth.compliance.export import bundle_of, write_bundles
    from fedhealth.site.state import local_user

    federation, one = _federation(path, None, site or (), None)
    if federation.failed:
        remark("nothing was written", wrote=None, failed=_failed(federation))
        _end(federation)
    bundles = {each.site: bundle_of(each, key, local_user(), time.time_ns() // 10**6) for each in federation.sites}
    write_bundles(bundles, output, folder=not one)
    size = sum(map(len, bundles.values()))
    sites = [each.site for each in federation.sites]
    say(f"wrote {output}: {size} bytes,", wrote=output, bytes=size, sites=sites)
    for each in federation.sites:
        entries, studies = len(each.history.ledger.entries), len(each.history.studies)
        say(f"  {entries} entries and {studies} signed studies of site '{each.site}'")
    verb = "verify" if one else "report"
    say(f"  whoever gets it checks it with: fedhealth audit {verb} {output.name}")
    _end(federation)


def _federation(
    paths: list[Path],
    evidence: Path | None,
    expected: Collection[str],
    witness: str | None,
    studies: Path | None = None,
) -> "tuple[Federation, bool]":
    """Verify what was given; also say whether it is one site's ledger, whose failure is raised."""
    from fedhealth.compliance.federation import (
        Federation,
        find_ledgers,
        is_folder_of_ledgers,
        read_federation,
        read_site,
    )
    from fedhealth.compliance.history import read_studies
    from fedhealth.compliance.ledger_certificate import check_witness_key

    texts = read_studies(studies) if studies is not None else {}
    if len(paths) == 1 and not expected and not is_folder_of_ledgers(paths[0]):
        ledger = read_site(find_ledgers(paths[0])[0], texts)
        if witness is not None:
            check_witness_key(ledger.history.ledger.verified, witness)
        if evidence is not None:
            ledger.history.check_seen(published_head(evidence, ledger.site))
        return Federation((ledger,), ()), True
    heads = published_heads(evidence) if evidence is not None else {}
    wanted = sorted({*expected, *heads})
    return read_federation(paths, expected=wanted, studies=texts, heads=heads, witness_key=witness), False


def _failed(federation: "Federation") -> list[dict[str, object]]:
    return [
        {"name": each.name, "error": str(each.error), "exit_code": each.error.exit_code} for each in federation.failed
    ]


def _end(federation: "Federation") -> None:
    for line in failed_lines(federation.failed):
        remark(line)
    if federation.failed:
        raise typer.Exit(federation.failed[0].error.exit_code)
    end_of_test_site(bool(federation.unsafe_test_sites))

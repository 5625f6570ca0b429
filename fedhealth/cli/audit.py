"""`fedhealth audit`: what a compliance officer does, offline."""

import typer

from fedhealth.cli import audit_federation, audit_mechanisms, audit_verify

app = typer.Typer(
    help="For the compliance officer: verify runs and ledgers, read budgets, report, export. All of it offline.",
    no_args_is_help=True,
)
for verb in (
    audit_verify.verify,
    audit_federation.budget,
    audit_federation.report,
    audit_federation.export,
    audit_verify.acts,
    audit_mechanisms.empirical,
):
    app.command()(verb)

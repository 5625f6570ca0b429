"""`fedhealth site`: what a site administrator does, and the two processes of a site."""

import typer

from fedhealth.cli import (
    joining,
    site_acts,
    site_articles,
    site_askers,
    site_data,
    site_index,
    site_limits,
    site_page,
    site_patients,
    site_processes,
    site_studies,
    site_supernode,
    site_trust,
    starting,
    upkeep,
)

app = typer.Typer(
    help="For the site administrator: make a site, approve studies, run its processes.", no_args_is_help=True
)
for verb in (
    joining.init,
    site_limits.limits,
    site_studies.approve,
    site_studies.studies,
    site_studies.reject,
    site_studies.withdraw,
    site_studies.budget,
    site_trust.distrust,
    site_patients.forget,
    site_patients.unforget,
    site_patients.studies_of,
    site_askers.asking_key,
    site_askers.vouch,
    site_acts.pause,
    site_acts.resume,
    site_acts.rotate_key,
    site_acts.key_statement,
    site_acts.recover_ledger,
    site_processes.gate,
    site_processes.node,
    site_supernode.supernode,
    site_supernode.worker,
    site_processes.egress,
    starting.start,
    site_page.page,
    site_page.page_server,
    site_page.page_search,
    joining.enrol,
    upkeep.preflight,
    upkeep.status,
    upkeep.recovery_key,
    upkeep.backup,
    upkeep.recover,
):
    app.command()(verb)
app.add_typer(site_data.app, name="data")
app.add_typer(site_articles.app, name="articles")
app.add_typer(site_index.app, name="index")
app.add_typer(site_trust.trust, name="trust")

"""Every command of `fedhealth`, by role."""

import typer

from fedhealth.cli import audit, coordinator, coordinator_articles, count, demo, root, search, site, study
from fedhealth.cli.json_option import Program

app = typer.Typer(
    cls=Program,
    help="Hospitals train models together while patient data never leave a hospital.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo", help=demo.run.__doc__)(demo.run)
app.command("search", help=search.search.__doc__)(search.search)
app.command("count")(count.count)
app.add_typer(site.app, name="site")
app.add_typer(study.app, name="study")
coordinator.app.add_typer(coordinator_articles.app, name="articles")
app.add_typer(coordinator.app, name="coordinator")
app.add_typer(audit.app, name="audit")
app.add_typer(root.app, name="root")

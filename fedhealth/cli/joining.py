"""`fedhealth site enrol`: a site joins a federation with the one line that its operator handed over."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from fedhealth.cli.site import Folder, State, Trust, UnsafeTestSite, researcher_pins, test_site_seed


def enrol(
    folder: Folder,
    invitation: Annotated[str, typer.Argument(help="The line that `fedhealth coordinator invite` printed.")],
    state: State,
    trust: Trust = None,
    unsafe_test_site: UnsafeTestSite = None,
) -> None:
    """Join a federation with an invitation; makes ledger and keys where there are none. Prints the ledger's key.

    Was it stopped half-way, run it again with the same invitation.

    Example: fedhealth site enrol sites/hungary INVITATION --state state/hungary --trust alice=KEY
    """
    from fedhealth.pki.invitation import parse_invitation
    from fedhealth.site.enrolling import NewSite, enrol_site
    from fedhealth.site.state import SiteState

    parsed = parse_invitation(invitation)
    new = NewSite(researcher_pins(trust), test_site_seed(unsafe_test_site))
    typer.echo(enrol_site(folder, SiteState(state), parsed, new, datetime.now(UTC)))
    typer.echo(f"site '{parsed.site}' joined federation '{parsed.federation}'", err=True)

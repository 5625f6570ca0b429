"""`fedhealth site init | enrol`: a site begins, by hand or with the line that a federation's operator handed over."""

import re
from datetime import UTC, datetime
from typing import Annotated

import typer

from fedhealth.cli.output import remark, say
from fedhealth.cli.site_arguments import Folder, State
from fedhealth.errors import ConfigInvalid

_KEY, _NAME = "[0-9a-f]{64}", "[a-z0-9][a-z0-9-]{0,62}"
Trust = Annotated[list[str] | None, typer.Option(help="Pin a researcher's key: NAME=KEY. Repeatable.")]
UnsafeTestSite = Annotated[
    int | None,
    typer.Option(help="SEED of known noise, for tests: the ledger says for ever that nothing here is private."),
]


def init(
    folder: Folder,
    state: State,
    witness: Annotated[str, typer.Option(help="The coordinator's witness key, 64 hexadecimal digits.")],
    trust: Trust = None,
    unsafe_test_site: UnsafeTestSite = None,
) -> None:
    """Make a site's ledger, keys and secrets, once. Prints the ledger's public key.

    Example: fedhealth site init sites/hungary --state state/hungary --witness KEY --trust alice=KEY
    """
    from fedhealth.site.state import SiteState, init_site

    if not re.fullmatch(_KEY, witness):
        raise ConfigInvalid(
            "the witness key is not a public key",
            got=f"--witness {witness}",
            wanted="64 hexadecimal digits in lower case",
            next_step="Ask the coordinator's operator for the witness key.",
        )
    key = init_site(folder, SiteState(state), witness, researcher_pins(trust), test_site_seed(unsafe_test_site))
    say(key, ledger_key=key)


def enrol(
    folder: Folder,
    invitation: Annotated[str, typer.Argument(help="The line that `fedhealth coordinator invite` printed.")],
    state: State,
    trust: Trust = None,
    unsafe_test_site: UnsafeTestSite = None,
    proxy: Annotated[
        str | None, typer.Option(help="http://HOST:PORT of the HTTP proxy to go through, now and later.")
    ] = None,
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
    key = enrol_site(folder, SiteState(state), parsed, new, datetime.now(UTC), proxy)
    say(key, ledger_key=key)
    federation = parsed.federation
    remark(f"site '{parsed.site}' joined federation '{federation}'", site=parsed.site, federation=federation)


def researcher_pins(trust: list[str] | None) -> dict[str, str]:
    """Return the researchers' public keys to pin, by name."""
    researchers = {}
    for pin in trust or []:
        found = re.fullmatch(f"({_NAME})=({_KEY})", pin)
        if found is None:
            raise ConfigInvalid(
                "a researcher's key cannot be pinned",
                got=f"--trust {pin}",
                wanted="NAME=KEY: a name as in policy.toml (a-z, 0-9, -) and 64 hexadecimal digits in lower case",
                next_step="Ask the researcher for the public key.",
            )
        researchers[found[1]] = found[2]
    return researchers


def test_site_seed(unsafe_test_site: int | None) -> int | None:
    """Return the seed of a test site's known noise, if it is one."""
    if unsafe_test_site is not None and unsafe_test_site < 0:
        raise ConfigInvalid(
            "the seed of a test site cannot be used",
            got=f"--unsafe-test-site {unsafe_test_site}",
            wanted="0 or a positive whole number",
            next_step="Give another seed, or leave it out for a real site.",
        )
    return unsafe_test_site

"""`fedhealth site asking-key` and `vouch`: who of this hospital may have other hospitals count."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fedhealth.cli.output import remark, say
from fedhealth.cli.site_arguments import Folder, State, made_state


def asking_key(state: State) -> None:
    """Print the public key with which this hospital vouches for those who ask; made the first time.

    Whoever writes a search study names it there, under asking_sites.

    Example: fedhealth site asking-key --state state/hungary
    """
    from fedhealth.signing import public_key_hex
    from fedhealth.site.askers import asking_key_of
    from fedhealth.site.state import SiteState

    key = public_key_hex(asking_key_of(SiteState(made_state(state))).public_key())
    say(key, asking_key=key)


def vouch(
    folder: Folder,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The asker's public key: fedhealth study keygen.")],
    state: State,
    until: Annotated[str, typer.Option(help='The last quarter in which they may ask, such as "2026-Q4".')],
    out: Annotated[Path, typer.Option("-o", "--output", help="Where to write the certificate; a new file.")],
    role: Annotated[Literal["clinician", "researcher"], typer.Option(help="In which role.")] = "clinician",
) -> None:
    """Vouch for somebody of this hospital, who may then have other hospitals count: fedhealth count.

    Other hospitals see the key and the role, and no name. It cannot be taken back before its quarter ends.

    Example: fedhealth site vouch sites/hungary KEY --until 2026-Q4 -o kovacs.asker --state state/hungary
    """
    from fedhealth.policy.site_file import load_site_file
    from fedhealth.site.askers import write_certificate
    from fedhealth.site.state import SiteState

    write_certificate(SiteState(made_state(state)), load_site_file(folder).id, key, role, until, out)
    say(f"vouched for {key[:12]} as {role} until {until}", key=key, role=role, until=until, wrote=str(out))
    remark(f"hand {out} to its owner: fedhealth count --help")

"""`fedhealth site trust researcher | list` and `distrust`: whose studies this hospital looks at."""

from typing import Annotated

import typer

from fedhealth.cli.completion import allowed_researchers
from fedhealth.cli.output import answer, say
from fedhealth.cli.site_arguments import Folder, State, made_state

trust = typer.Typer(help="Pin researchers' public keys, and list those that are.", no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        help="The name that policy.toml uses: lower case, digits, hyphens.", autocompletion=allowed_researchers
    ),
]


@trust.command()
def researcher(
    folder: Folder,
    name: Name,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The public key: 64 hexadecimal digits.")],
    state: State,
) -> None:
    """Pin a researcher's public key; the ledger keeps who did. The gate may be running.

    Get the key from the researcher by a way that you trust, never from the coordinator. Its studies are looked at only
    if `researchers` in policy.toml has the name, and each still needs an approval.

    Example: fedhealth site trust researcher sites/hungary alice KEY --state state/hungary
    """
    from fedhealth.policy.rules import load_policy
    from fedhealth.site.acts import trust_researcher
    from fedhealth.site.state import SiteState

    trust_researcher(folder, SiteState(made_state(state)), name, key)
    allowed = name in load_policy(folder)[0].researchers
    say(f"pinned the key of researcher '{name}'", researcher=name, allowed_by_policy=allowed)
    if not allowed:
        say(f"the policy does not allow '{name}' yet: add the name to `researchers` in policy.toml")


@trust.command("list")
def list_(folder: Folder, state: State) -> None:
    """List the pinned keys by name. The gate may be running.

    Example: fedhealth site trust list sites/hungary --state state/hungary
    """
    from fedhealth.site.acts import pinned_researchers
    from fedhealth.site.state import SiteState

    pinned = pinned_researchers(folder, SiteState(made_state(state)))
    answer(pinned)
    for name, key in pinned.items():
        say(name)
        say(f"  {key}")
    if not pinned:
        say("no researcher's key is pinned, so no study can be approved")


def distrust(folder: Folder, name: Name, state: State) -> None:
    """Let a researcher's key go: its studies are refused with `policy` from now on. The gate may be running.

    What was approved stays set aside in the budget until it is withdrawn.

    Example: fedhealth site distrust sites/hungary alice --state state/hungary
    """
    from fedhealth.site.acts import distrust_researcher
    from fedhealth.site.state import SiteState

    running = distrust_researcher(folder, SiteState(made_state(state)), name)
    say(f"let the key of researcher '{name}' go", researcher=name, gate_running=running)
    say("its studies are refused from now on" if running else "its studies are refused when the gate is started")

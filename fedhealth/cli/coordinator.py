"""`fedhealth coordinator`: the datacentre's side."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli.completion import joined_sites
from fedhealth.cli.lifeline import Lifeline, loading, run_until_stopped
from fedhealth.cli.output import agreed, remark, say, say_event
from fedhealth.errors import INTERRUPTED_EXIT_CODE, ConfigInvalid
from fedhealth.link.engine import Engine

app = typer.Typer(
    help="For the datacentre: found a federation, run a study over the sites that joined.", no_args_is_help=True
)


Home = Annotated[Path, typer.Option(help="The coordinator's state folder.")]
Database = Annotated[
    str | None, typer.Option(help="postgresql+psycopg://USER@HOST/NAME; SQLite in the home if not given.")
]
EngineOption = Annotated[
    Engine, typer.Option(help="How sites are asked in a run: over the link, or through a stock Flower SuperLink.")
]
Where = "HOST:PORT, as sites reach it."


@app.command()
def init(
    federation: Annotated[str, typer.Argument(help="Its name, as the root has it.")],
    home: Home,
    link: Annotated[str, typer.Option(help=f"Where the link is: {Where}")],
    enrolment: Annotated[str, typer.Option(help=f"Where sites join: {Where} Open only while an invitation is.")],
) -> None:
    """Make a coordinator's state, once, and a request for the machine with the root. Prints its witness key.

    Example: fedhealth coordinator init heart --home state --link c.example:7443 --enrolment c.example:7444
    """
    from fedhealth.coordinator.home import CoordinatorHome, init_coordinator

    for address in (link, enrolment):
        check_address(address)
    witness, request = init_coordinator(CoordinatorHome(home), federation, link, enrolment)
    say(witness, witness_key=witness)
    remark(f"take {request} to the machine with the root: fedhealth root certify --help", request=str(request))


@app.command()
def request_authority(home: Home) -> None:
    """Make the key and the request of next year's issuing authority; this year's goes on working.

    Example: fedhealth coordinator request-authority --home state
    """
    from fedhealth.coordinator.home import CoordinatorHome
    from fedhealth.pki.authority import request_authority as make_request

    there = CoordinatorHome(home)
    request = make_request(there.authority, there.federation())
    say(str(request), request=str(request))


@app.command()
def install(
    certificate: Annotated[Path, typer.Argument(help="What `fedhealth root certify` wrote.")],
    root: Annotated[Path, typer.Argument(metavar="ROOT_PEM", help="The root's certificate, root.pem.")],
    home: Home,
) -> None:
    """Put the root's answer in place; from then on the coordinator can certify. Prints the root's fingerprint.

    Example: fedhealth coordinator install issuing.crt root.pem --home state
    """
    from fedhealth.coordinator.home import CoordinatorHome, install_chain
    from fedhealth.pki.certificates import fingerprint_of
    from fedhealth.secret_file import read_file

    authority = install_chain(CoordinatorHome(home), read_file(certificate), read_file(root), datetime.now(UTC))
    fingerprint, ends = fingerprint_of(authority.root), f"{authority.certificate.not_valid_after_utc:%Y-%m-%d}"
    say(fingerprint, fingerprint=fingerprint)
    remark(f"certifies until {ends}", certifies_until=ends)


@app.command()
def invite(
    site: Annotated[str, typer.Argument(help="The site's id, as in its site.toml.", autocompletion=joined_sites)],
    home: Home,
    minutes: Annotated[int, typer.Option(min=1, max=60, help="How long it may take to join.")] = 60,
) -> None:
    """Invite a site to join, or to join again. Prints one line, to be handed over like a password.

    Example: fedhealth coordinator invite hungary --home state
    """
    from fedhealth.coordinator.enrolling import invite_site
    from fedhealth.coordinator.home import CoordinatorHome

    invitation = invite_site(CoordinatorHome(home), site, datetime.now(UTC), timedelta(minutes=minutes))
    say(invitation, site=site, invitation=invitation)
    remark(f"good for {minutes} minutes and one site, which runs: fedhealth site enrol --help", minutes=minutes)


@app.command()
def revoke(
    site: Annotated[str, typer.Argument(help="The site's id.", autocompletion=joined_sites)], home: Home
) -> None:
    """Take a site out at once: its link ends, its certificates and its invitation count no more.

    It comes back by a new invitation, with the ledger it had.

    Example: fedhealth coordinator revoke hungary --home state
    """
    from fedhealth.coordinator.home import CoordinatorHome, revoke_site

    revoke_site(CoordinatorHome(home), site, datetime.now(UTC))
    say(f"site '{site}' is out: a coordinator that runs ends its link now, and none lets it in again", revoked=site)


@app.command()
def members(home: Home) -> None:
    """List the sites that joined: who is in and until when, who was revoked, and the key of each ledger.

    Example: fedhealth coordinator members --home state
    """
    from fedhealth.coordinator.home import CoordinatorHome

    found = CoordinatorHome(home).members().all()
    say(members=[member.model_dump(mode="json") for member in found.values()])
    for site, member in found.items():
        ends = {held.role.value: held.ends for held in sorted(member.certificates, key=lambda held: held.ends)}
        said = [f"{role} certificate until {_time(end)}" for role, end in sorted(ends.items(), reverse=True)]
        if member.revoked is not None:
            said = [f"revoked {_time(member.revoked)}"]
        say(f"{site}: {'; '.join(said)}")
        say(f"  ledger key {member.ledger_key}")


@app.command()
def serve(
    home: Home,
    address: Annotated[str, typer.Option(help="Where the link listens, HOST:PORT.")] = "127.0.0.1:7443",
    enrolment: Annotated[
        str, typer.Option(help="Where sites join, HOST:PORT; open only while an invitation is.")
    ] = "127.0.0.1:7444",
    researchers: Annotated[
        str | None,
        typer.Option(help="Unix group that may use research.sock in the home; this user alone if not given."),
    ] = None,
    allow_unsafe_test_sites: Annotated[
        bool, typer.Option("--allow-unsafe-test-sites", help="For tests only: their noise is known.")
    ] = False,
    database: Database = None,
    engine: EngineOption = Engine.LINK,
    lifeline: Lifeline = False,
) -> None:
    """Serve sites and researchers until it is stopped: sites join and connect, studies are taken in and run.

    One study runs at a time. What was running when this ended, however it ended, goes on when it is started again.

    Example: fedhealth coordinator serve --home state --address 0.0.0.0:7443 --enrolment 0.0.0.0:7444
    """
    for each in (address, enrolment):
        check_address(each)
    from fedhealth.link.handshake_log import logged_handshakes

    with logged_handshakes():  # before anything loads grpc
        with loading(lifeline):
            from fedhealth.coordinator.daemon import Daemon
            from fedhealth.coordinator.home import CoordinatorHome
            from fedhealth.coordinator.service import Ports

        async def work() -> None:
            there = CoordinatorHome(home.absolute())
            daemon = Daemon(there, database, allow_unsafe_test_sites, researchers, say_event, engine)
            await daemon.serve(Ports(address, enrolment))

        run_until_stopped(work(), lifeline)


@app.command()
def offer_search(
    study: Annotated[Path, typer.Argument(metavar="SIGNED_STUDY", help="The signed search study.")], home: Home
) -> None:
    """Offer a search study to the sites from now on; each decides for itself. The coordinator may be running.

    Example: fedhealth coordinator offer-search search.signed --home state
    """
    from fedhealth.coordinator.count_desk import offer_search as offer
    from fedhealth.coordinator.home import CoordinatorHome
    from fedhealth.secret_file import read_file

    there = CoordinatorHome(home)
    there.file()  # a home that is none is said to be missing
    digest = offer(there.searches, read_file(study)).study.digest
    say(f"offered search study {digest[:12]} to the sites", study=digest)


@app.command()
def run(
    study: Annotated[Path, typer.Argument(metavar="SIGNED_STUDY", help="The signed study.")],
    home: Home,
    out: Annotated[Path, typer.Option(help="Folder for model, evidence and report.")],
    address: Annotated[str, typer.Option(help="Where to listen, HOST:PORT; port 0 takes a free one.")] = "127.0.0.1:0",
    patience: Annotated[
        float | None, typer.Option(help="Seconds that a site is waited for, in place of the protocol's.")
    ] = None,
    allow_unsafe_test_sites: Annotated[
        bool, typer.Option("--allow-unsafe-test-sites", help="For tests only: their noise is known.")
    ] = False,
    enrolment: Annotated[
        str | None, typer.Option(help="Where sites join meanwhile, HOST:PORT; nobody can if not given.")
    ] = None,
    database: Database = None,
    engine: EngineOption = Engine.LINK,
    lifeline: Lifeline = False,
) -> None:
    """Run one study to its end and write its results, sealed by the coordinator's key; events as JSON lines.

    They are evidence.json, report.html, model.safetensors, model-card.md and study.signed; seal.json is over all
    five. Run again with the same home and folder, it goes on where it was: nothing is charged twice.

    Example: fedhealth coordinator run study.signed --home state/coordinator --out results
    """
    for each in (address, enrolment) if enrolment else (address,):
        check_address(each)
    from fedhealth.link.handshake_log import logged_handshakes

    with logged_handshakes():  # before anything loads grpc
        with loading(lifeline):
            from fedhealth.coordinator.home import CoordinatorHome
            from fedhealth.coordinator.service import Coordinator, Ports

        try:
            signed = study.read_bytes()
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigInvalid(
                f"cannot use {error.filename}", got=error.strerror or "an error", next_step="Check the path."
            ) from error

        async def work() -> None:
            there = CoordinatorHome(home)
            there.file()  # a home that is none is said to be missing, not empty
            there.pinned_sites()
            coordinator = Coordinator(there, database, allow_unsafe_test_sites, say_event, engine)
            try:
                known = coordinator.submit(signed)
                port = await coordinator.start(Ports(address, enrolment))
                say_event({"event": "listening", "port": port, "sites": coordinator.sites})
                await coordinator.run(known, out.absolute(), patience)
            finally:
                await coordinator.close()

        if not run_until_stopped(work(), lifeline):
            raise typer.Exit(INTERRUPTED_EXIT_CODE)


@app.command()
def follow_key(
    statement: Annotated[Path, typer.Argument(metavar="KEY_STATEMENT", help="The file that the site brought.")],
    home: Annotated[Path, typer.Option(help="The coordinator's state folder.")],
    yes: Annotated[bool, typer.Option("--yes", help="Follow without asking.")] = False,
) -> None:
    """Trust a site's new ledger key, which its former one signed. The coordinator must not be running.

    Compare the new key with the site's administrator by phone: a thief of the former key could sign, too.

    Example: fedhealth coordinator follow-key hungary.key-statement --home state/coordinator
    """
    from pydantic import ValidationError

    from fedhealth.coordinator.home import CoordinatorHome
    from fedhealth.coordinator.home import follow_key as follow
    from fedhealth.privacy.rotation import KeyStatement

    try:
        read = KeyStatement.model_validate_json(statement.read_bytes())
    except OSError as error:
        raise ConfigInvalid(
            f"cannot use {statement}", got=error.strerror or "an error", next_step="Check the path."
        ) from error
    except ValidationError as error:
        raise ConfigInvalid(
            f"{statement} is no key statement",
            wanted="the file that `fedhealth site key-statement` writes",
            next_step="Ask the site's administrator for it again.",
        ) from error
    if not yes:
        key = read.rotations[-1].ledger_key if read.rotations else "no other key"
        say(f"site '{read.site}' says that its ledger is signed by\n  {key}")
        if not agreed("Did its administrator read out the same key?"):
            say("not followed; nothing was written")
            raise typer.Exit(ConfigInvalid.exit_code)
    before, now = follow(CoordinatorHome(home), read)
    say(f"the ledger of site '{read.site}' is signed by {now}", site=read.site, ledger_key=now, before=before)
    say("(it was before)" if now == before else f"(before: {before})")


def _time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def check_address(address: str) -> None:
    """Refuse what is not HOST:PORT: gRPC would take a port that is missing for 443, and 99999 for 34463.

    Raises:
        ConfigInvalid: there is no host, or no port from 0 to 65535.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigInvalid(
            "the coordinator cannot listen there",
            got=f"--address {address}",
            wanted="HOST:PORT with a port from 0 to 65535, such as 127.0.0.1:0",
            next_step="Correct the address; port 0 takes a free one.",
        )

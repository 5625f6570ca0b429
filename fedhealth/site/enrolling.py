"""A site joins: makes its keys, checks the federation's root, shows the token, keeps what it gets.

Private keys are made here and never leave. Until the site has joined, they and the signed request lie in
`node/joining/`, so that a run that was killed sends the very same request again and gets the very same answer; the
ledger, where there is none yet, is made beside its place and moved there whole.

Invariants: the token is sent only to the coordinator under the root whose fingerprint the invitation has; what comes
back is checked against that root, these keys and this ledger before anything of it is kept; `node.toml` is written
last, so a node never starts from a part.
"""

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from fedhealth.errors import ConfigInvalid, IdentityInvalid, LinkUnavailable
from fedhealth.link.enrolment import (
    LEDGER_CERTIFICATE_FILE,
    AskRoot,
    AskTerms,
    Join,
    Joined,
    Root,
    Terms,
    TurnedAway,
    make_join,
)
from fedhealth.link.enrolment_port import CLOCK_TOLERANCE, ask_coordinator, ask_unverified
from fedhealth.link.proxy import split_proxy
from fedhealth.pki.certificates import (
    certificate_pem,
    fingerprint_of,
    key_pem,
    load_key,
    make_key,
    make_request,
    parse_certificate,
)
from fedhealth.pki.identity import ROOT_FILE, TlsIdentity, check_identity, store_identity
from fedhealth.pki.invitation import Invitation, InvitationInvalid
from fedhealth.pki.profiles import Role, profiles
from fedhealth.policy.site_file import load_site_file
from fedhealth.privacy.verify import read_ledger
from fedhealth.secret_file import PUBLIC_MODE, SECRET_MODE, create_file, read_secret, replace_file, sync_folder
from fedhealth.signing import public_key_hex
from fedhealth.site.state import SiteState, init_site

_KEYS = {Role.SITE: "tls.key", Role.RENEWAL: "renewal.key"}
_REQUEST = "join.json"


@dataclass(frozen=True)
class NewSite:
    """What a site's ledger is made with where there is none yet; see `state.init_site`."""

    researchers: dict[str, str]
    unsafe_noise_seed: int | None = None


def enrol_site(
    folder: Path, state: SiteState, invitation: Invitation, new: NewSite, now: datetime, proxy: str | None = None
) -> str:
    """Join a federation, or join it again; may be run again after it was killed at any point.

    Args:
        folder: the site's folder, with `site.toml` and `policy.toml`.
        state: the site's state; its ledger is made if there is none.
        invitation: as `invitation.parse_invitation` returned it.
        new: what a new ledger is made with.
        now: the present, with time zone.
        proxy: `http://host:port` of the HTTP proxy to go through, now and whenever the node connects.

    Returns:
        The ledger's public key, which the coordinator pinned.

    Raises:
        InvitationInvalid: it ended, is for another site, or the coordinator turned it away.
        IdentityInvalid: the other end is not the invitation's federation, or answered with what does not fit.
        LinkUnavailable: nobody answers.
        ConfigInvalid: a file of the site is wrong.
    """
    site = load_site_file(folder).id
    if invitation.site != site:
        raise InvitationInvalid(
            f"the invitation is for site '{invitation.site}'",
            got=f"site '{site}' in {folder / 'site.toml'}",
            next_step="Ask the coordinator's operator for an invitation of this site.",
        )
    invitation.check_time(now)
    _check_proxy(proxy)
    root_pem = _fetch_root(invitation, proxy)
    terms = _ask_terms(invitation, root_pem, now, proxy)
    _make_ledger(folder, state, terms.witness_key, new)
    state.node.mkdir(mode=0o700, exist_ok=True)
    ledger_key = public_key_hex(state.ledger_key().public_key())
    join = _request(state, invitation)
    joined = ask_coordinator(invitation.address, join, invitation.federation, root_pem, proxy=proxy)
    if not isinstance(joined, Joined):
        raise _turned_away(invitation, joined)
    _check(joined, state, invitation, terms, ledger_key, root_pem, now)
    _keep(joined, state, invitation, root_pem, proxy)
    return ledger_key


def _check_proxy(proxy: str | None) -> None:
    try:
        if proxy is not None:
            split_proxy(proxy)
    except ValueError as error:
        raise ConfigInvalid(
            "this proxy cannot be used",
            got="another form",  # not the text: it may hold a password
            wanted="http://HOST:PORT",
            next_step="A proxy that wants a name and a password is not gone through; ask for an exception for this "
            "machine.",
        ) from error


def _fetch_root(invitation: Invitation, proxy: str | None) -> bytes:
    answer = ask_unverified(invitation.address, AskRoot(), proxy=proxy)
    if not isinstance(answer, Root):
        raise _turned_away(invitation, answer)
    root = parse_certificate(answer.pem.encode())
    got = fingerprint_of(root)
    if got != invitation.root_sha256.hex():
        raise IdentityInvalid(
            f"whoever answers at {invitation.address} is not the federation of this invitation",
            got=f"a root with fingerprint {got[:16]}...",
            wanted=f"{invitation.root_sha256.hex()[:16]}...",
            next_step="Nothing was sent. Ask the coordinator's operator; something may lie between.",
        )
    return certificate_pem(root)  # not the text that came: TLS could find roots in it that the hash is not of


def _ask_terms(invitation: Invitation, root_pem: bytes, now: datetime, proxy: str | None) -> Terms:
    terms = ask_coordinator(invitation.address, AskTerms(), invitation.federation, root_pem, proxy=proxy)
    if not isinstance(terms, Terms) or terms.federation != invitation.federation:
        raise _turned_away(invitation, terms)
    there = datetime.fromtimestamp(terms.now, UTC)
    if abs(now - there) > CLOCK_TOLERANCE:
        raise IdentityInvalid(
            "the clocks of this machine and of the coordinator do not agree",
            got=f"{now.astimezone(UTC):%Y-%m-%d %H:%M:%S} here and {there:%Y-%m-%d %H:%M:%S} there, UTC",
            wanted=f"at most {CLOCK_TOLERANCE.seconds // 60} minutes between them",
            next_step="Correct the wrong one (timedatectl shows this one); then run this again.",
        )
    return terms


def _make_ledger(folder: Path, state: SiteState, witness_key: str, new: NewSite) -> None:
    """Make the site's ledger if there is none; otherwise see that it is countersigned by this federation's witness."""
    if not state.gate.exists():
        aside = SiteState(state.root / "joining")
        if aside.root.exists():
            shutil.rmtree(aside.root)  # a run that was killed left it; nothing in it was ever used
        init_site(folder, aside, witness_key, new.researchers, new.unsafe_noise_seed)
        aside.gate.rename(state.gate)
        sync_folder(state.root)
        aside.root.rmdir()
    created = read_ledger(state.gate, held=True).account.created
    pinned = created.witness_key if created else "none"
    if pinned != witness_key:
        raise IdentityInvalid(
            "the ledger of this site is countersigned by another coordinator",
            got=f"witness key {pinned[:16]}... in the ledger",
            wanted=f"{witness_key[:16]}...",
            next_step="Join the federation that the ledger was made for.",
        )


def _request(state: SiteState, invitation: Invitation) -> Join:
    """Return the request of this invitation, the same however often it is asked for."""
    joining = state.node / "joining"
    try:
        kept = Join.model_validate_json(read_secret(joining / _REQUEST))
        if kept.token == invitation.token.hex():
            return kept
    except (IdentityInvalid, ValidationError):
        pass  # there is none, or not a whole one
    if joining.exists():
        shutil.rmtree(joining)
    joining.mkdir(mode=0o700)
    requests = []
    for role, name in _KEYS.items():
        key = make_key(profiles().of(role).key)
        create_file(joining / name, key_pem(key))
        requests.append(make_request(key, invitation.federation, invitation.site))
    join = make_join(invitation.site, invitation.token, requests[0], requests[1], state.ledger_key())
    replace_file(joining / _REQUEST, join.model_dump_json().encode(), SECRET_MODE)
    return join


def _check(
    joined: Joined,
    state: SiteState,
    invitation: Invitation,
    terms: Terms,
    ledger_key: str,
    root_pem: bytes,
    now: datetime,
) -> None:
    """Refuse an answer that is not about this site, its keys and its ledger."""
    for role, chain in ((Role.SITE, joined.tls_chain), (Role.RENEWAL, joined.renewal_chain)):
        key = read_secret(state.node / "joining" / _KEYS[role])
        holder = check_identity(TlsIdentity(chain.encode(), key, root_pem), invitation.federation, role, now)
        if holder != invitation.site:
            raise _strange_answer(f"a certificate of '{holder}'")
    joined.ledger.check(terms.witness_key)
    word = (joined.ledger.federation, joined.ledger.site, joined.ledger.ledger_key)
    if word != (invitation.federation, invitation.site, ledger_key):
        raise _strange_answer("the word for another ledger")


def _keep(joined: Joined, state: SiteState, invitation: Invitation, root_pem: bytes, proxy: str | None) -> None:
    node, joining = state.node, state.node / "joining"
    replace_file(state.gate / LEDGER_CERTIFICATE_FILE, joined.ledger.model_dump_json().encode(), PUBLIC_MODE)
    replace_file(node / ROOT_FILE, root_pem, PUBLIC_MODE)
    for role, chain in ((Role.RENEWAL, joined.renewal_chain), (Role.SITE, joined.tls_chain)):
        store_identity(node, role, load_key(read_secret(joining / _KEYS[role])), chain.encode())
    text = f'site = "{invitation.site}"\nfederation = "{invitation.federation}"\ncoordinator = "{joined.link}"\n'
    text += f'proxy = "{proxy}"\n' if proxy else ""
    replace_file(node / "node.toml", text.encode(), PUBLIC_MODE)
    shutil.rmtree(joining)
    _give(state.gate, state.root)
    _give(node, node)


def _give(folder: Path, like: Path) -> None:
    """Where root runs this, let a folder and what is in it belong to whom `like` belongs to."""
    if os.geteuid() != 0:
        return
    owner = like.stat()
    # By descriptors: whoever owns the folder could put a link to another one in a path while root walks along it.
    for _, folders, files, here in os.fwalk(folder):
        os.fchown(here, owner.st_uid, owner.st_gid)
        for name in (*folders, *files):
            os.chown(name, owner.st_uid, owner.st_gid, dir_fd=here, follow_symlinks=False)


def _turned_away(invitation: Invitation, answer: object) -> IdentityInvalid | LinkUnavailable:
    code = answer.code if isinstance(answer, TurnedAway) else "bad-request"
    if code == "upgrade-site":
        return LinkUnavailable("the coordinator runs a newer FedHealth", next_step="Upgrade this site first.")
    if code == "upgrade-coordinator":
        return LinkUnavailable("the coordinator runs an older FedHealth", next_step="It must be upgraded first.")
    return InvitationInvalid(
        f"the coordinator does not take the invitation of site '{invitation.site}'",
        got=f"the answer '{code}'",
        wanted="an invitation that is open and was not used before",
        next_step="Ask its operator, whose log has the reason, for a new one: fedhealth coordinator invite --help",
    )


def _strange_answer(got: str) -> IdentityInvalid:
    return IdentityInvalid(
        "the coordinator's answer does not fit this site", got=got, next_step="Nothing was kept. Ask its operator."
    )

"""Acts on a whole site, from outside: pauses, policies and key rotations over restarts and crashes."""

import hashlib
import json
import sys

import pytest

from fedhealth.cli.main import main
from fedhealth.coordinator.home import CoordinatorHome, follow_key
from fedhealth.coordinator.members import Member
from fedhealth.errors import ConfigInvalid, FedHealthError, IdentityInvalid, LedgerDamaged, PolicyForbids, RefusalCode
from fedhealth.link.frames import AskHead, Head, PutStudy, ReleaseReply, Witnessed, pack, unpack_reply
from fedhealth.privacy.acts import PolicyChanged
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.verify import verify_ledger
from fedhealth.signing import create_signing_key, public_key_hex
from fedhealth.site import acts
from fedhealth.site.acts import key_statement, pause_site, resume_site, rotate_key
from fedhealth.site.approval import approve_study, examine_study
from fedhealth.site.state import SiteState, local_user
from fedhealth.study.signature import sign_study


def policies(here):
    with here.state.opened_ledger("ward-a") as ledger:
        return [entry for entry, _ in ledger.history() if isinstance(entry, PolicyChanged)]


def change_policy(here, old, new):
    file = here.folder / "policy.toml"
    changed = file.read_text().replace(old, new)
    assert changed != file.read_text()
    file.write_text(changed)
    return hashlib.sha256(file.read_bytes()).hexdigest()


# Policy


def test_the_ledger_says_which_policy_was_in_force_from_the_beginning_and_by_whom(ward, make_protocol, steps):
    here, study = ward(epsilon=20.0), make_protocol()
    first = hashlib.sha256((here.folder / "policy.toml").read_bytes()).hexdigest()
    assert [(each.policy_sha256, each.by) for each in policies(here)] == [(first, local_user())]
    here.approve(study, steps["noise_only"])

    def ask(number):
        gate, ledger = here.open_gate(steps["noise_only"])
        assert isinstance(here.ask(gate, ledger, study, number=number)[0], ReleaseReply)
        ledger.close()

    ask(1)
    assert len(policies(here)) == 1, "the same policy is said once"
    second = change_policy(here, "min_patients_a_side = 2", "min_patients_a_side = 3")
    here.open_gate(steps["noise_only"])[1].close()
    assert len(policies(here)) == 1, "a gate writes nothing before it knows that its ledger is no older copy"
    ask(2)
    assert [each.policy_sha256 for each in policies(here)] == [first, second]
    third = change_policy(here, "min_patients_a_side = 3", "min_patients_a_side = 4")
    here.approve(make_protocol(name="second"), steps["noise_only"])  # whoever meets it first says so
    assert [each.policy_sha256 for each in policies(here)] == [first, second, third]
    assert verify_ledger(here.state.gate).policy_sha256 == third


def test_a_policy_changed_between_looking_and_approving_still_holds(ward, make_protocol, steps):
    here = ward()
    data = sign_study(make_protocol(), here.researcher)
    proposal = examine_study(here.folder, here.state, data, dict.fromkeys(("train", "evaluate"), steps["noise_only"]))
    change_policy(here, "max_epsilon_a_study = 2.5", "max_epsilon_a_study = 1.5")
    before = here.traces
    with pytest.raises(PolicyForbids):
        approve_study(here.folder, here.state, proposal)
    assert here.traces == before


# Pauses


def test_a_paused_site_is_busy_for_every_study_and_charges_nothing(ward, make_protocol, steps):
    here, study = ward(), make_protocol()
    here.approve(study, steps["noise_only"])
    pause_site(here.folder, here.state)
    gate, ledger = here.open_gate(steps["noise_only"])
    size = len(tuple(ledger.history()))
    put = pack(PutStudy(), sign_study(study, here.researcher))
    assert unpack_reply(gate.handle(put).frame)[0].code == RefusalCode.BUSY
    assert here.ask(gate, ledger, study)[0].code == RefusalCode.BUSY
    # Its head can be seen and countersigned, as before.
    head = unpack_reply(gate.handle(pack(AskHead(since=0))).frame)[0]
    assert isinstance(head, Head)
    witnessed = pack(Witnessed(study=None, receipt=here.receipt_of(ledger, head.challenge)))
    assert isinstance(unpack_reply(gate.handle(witnessed).frame)[0], Head)
    assert len(tuple(ledger.history())) == size and verify_ledger(here.state.gate).paused
    ledger.close()
    resume_site(here.folder, here.state)
    gate, ledger = here.open_gate(steps["noise_only"])
    assert isinstance(here.ask(gate, ledger, study)[0], ReleaseReply)
    ledger.close()
    assert not verify_ledger(here.state.gate).paused


def test_a_charge_that_waited_before_the_pause_is_answered_after_it_under_the_same_charge(ward, make_protocol, steps):
    here, study = ward(), make_protocol()
    here.approve(study, steps["noise_only"])

    def die(step, weights, records, streams):
        if records.patient_count != 30:  # not while it warms up, on made-up records
            raise KeyboardInterrupt
        return steps["noise_only"](step, weights, records, streams)

    gate, ledger = here.open_gate(die)
    with pytest.raises(KeyboardInterrupt):
        here.ask(gate, ledger, study)
    ledger.close()
    pause_site(here.folder, here.state)
    gate, ledger = here.open_gate(steps["noise_only"])
    assert here.ask(gate, ledger, study)[0].code == RefusalCode.BUSY
    ledger.close()
    resume_site(here.folder, here.state)
    gate, ledger = here.open_gate(steps["noise_only"])
    assert isinstance(here.ask(gate, ledger, study)[0], ReleaseReply)
    assert ledger.account.releases(study.digest, "train") == 1
    ledger.close()


@pytest.mark.parametrize(("call", "words"), [(pause_site, "paused already"), (resume_site, "not paused")])
def test_a_pause_begins_and_ends_once(ward, call, words):
    here = ward()
    pause_site(here.folder, here.state)
    if call is resume_site:
        resume_site(here.folder, here.state)
    before = here.traces
    with pytest.raises(ConfigInvalid, match=words):
        call(here.folder, here.state)
    assert here.traces == before


# Rotations


@pytest.fixture
def home(tmp_path):
    """A coordinator that pinned a ledger key."""

    def make(ledger_key):
        home = CoordinatorHome(tmp_path / "coordinator")
        home.sites.mkdir(parents=True)
        create_signing_key(home.root / "witness.key")
        pin(home, ledger_key)
        return home

    return make


def pin(home, ledger_key, site="ward-a"):
    member = Member(site=site, ledger_key=ledger_key, certificates=())
    (home.sites / f"{site}.json").write_text(member.model_dump_json())


def pinned(home):
    return home.pinned_sites()["ward-a"].ledger_key


def current(state):
    return public_key_hex(state.ledger_key().public_key())


def test_a_site_with_a_rotated_key_goes_on_and_the_coordinator_follows(ward, make_protocol, steps, home):
    here, study = ward(), make_protocol()
    here.approve(study, steps["noise_only"])
    first, old_file = current(here.state), (here.state.gate / "ledger.key").read_bytes()
    coordinator = home(first)
    second = rotate_key(here.folder, here.state)
    third = rotate_key(here.folder, here.state)
    assert third == current(here.state) and len({first, second, third}) == 3
    gate, ledger = here.open_gate(steps["noise_only"])
    assert isinstance(here.ask(gate, ledger, study)[0], ReleaseReply)
    ledger.close()
    statement = key_statement(here.folder, here.state)
    assert follow_key(coordinator, statement) == (first, third)
    assert pinned(coordinator) == third
    assert follow_key(coordinator, statement) == (third, third), "again is no mistake"
    # Of the keys that are no more nothing is left at the site.
    assert old_file not in {path.read_bytes() for path in here.state.gate.iterdir() if path.is_file()}
    assert not here.state.next_ledger_key.exists()
    assert (here.state.gate / "ledger.key").stat().st_mode & 0o777 == 0o600


class PowerCut(BaseException):
    """Ends the process wherever it is."""


def cut(*_, **__):
    raise PowerCut


CRASHES = {
    "before the key is made": (acts, "create_signing_key", False),
    "before the key's name is on disk": (acts, "sync_folder", False),
    "before the entry": (Ledger, "rotate", False),
    "after the entry": (SiteState, "take_next_ledger_key", True),
}


@pytest.mark.parametrize(("owner", "name", "happened"), CRASHES.values(), ids=CRASHES)
def test_a_crash_in_a_rotation_leaves_the_old_key_or_the_new_one_at_work(ward, monkeypatch, owner, name, happened):
    here = ward()
    first = current(here.state)
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, cut)
        with pytest.raises(PowerCut):
            rotate_key(here.folder, here.state)
    assert current(here.state) == first
    if name == "sync_folder":  # what a power cut may leave of a file that was not yet whole
        here.state.next_ledger_key.write_bytes(b"-----BEGIN PRIV")
    with here.state.opened_ledger("ward-a") as ledger:
        assert (ledger.public_key != first) == happened == bool(ledger.account.acts.rotations)
        new = ledger.public_key
    assert current(here.state) == new, "what the ledger says is made true before anything is signed"
    again = rotate_key(here.folder, here.state)
    assert current(here.state) == again not in (first, new)
    assert verify_ledger(here.state.gate).ledger_key == again


def test_a_ledger_whose_key_is_gone_is_not_opened_with_another(ward):
    here = ward()
    (here.state.gate / "ledger.key").unlink()
    create_signing_key(here.state.gate / "ledger.key")
    with (
        pytest.raises(IdentityInvalid, match="does not sign the ledger of 'ward-a'"),
        here.state.opened_ledger("ward-a"),
    ):
        pass


@pytest.mark.parametrize("case", ["a stranger's pin", "another site", "running", "not joined"])
def test_the_coordinator_follows_only_from_the_key_it_trusts(ward, home, case):
    here = ward()
    coordinator = home("a" * 64 if case == "a stranger's pin" else current(here.state))
    rotate_key(here.folder, here.state)
    statement, before = key_statement(here.folder, here.state), pinned(coordinator)
    if case == "another site":
        pin(coordinator, before, "ward-b")
        statement = statement.model_copy(update={"site": "ward-b"})
    if case == "not joined":
        (coordinator.sites / "ward-a.json").unlink()
        pin(coordinator, before, "ward-c")
    held = coordinator.hold() if case == "running" else None
    with pytest.raises(FedHealthError):
        follow_key(coordinator, statement)
    if held:
        held.close()
    assert {each.ledger_key for each in coordinator.pinned_sites().values()} == {before}


# The commands


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedhealth", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, "".join(capsys.readouterr())

    return run


def test_the_commands_pause_rotate_and_follow(ward, home, command, tmp_path):
    here = ward()
    coordinator, where = home(current(here.state)), (here.folder, "--state", here.state.root)
    statement = tmp_path / "statement"
    assert command("site", "pause", *where)[0] == 0
    assert command("site", "pause", *where)[0] == ConfigInvalid.exit_code
    ended, said = command("audit", "acts", here.state.gate)
    assert ended == 0 and "paused the whole site" in said and local_user() in said
    assert max(len(line) for line in said.splitlines()) <= 80
    told = json.loads(command("audit", "acts", here.state.gate, "--json")[1])
    assert [each["entry"] for each in told["acts"]] == [0, 1, 2]
    assert "paused      the whole site" in command("audit", "verify", here.state.gate)[1]
    assert command("site", "resume", *where)[0] == 0
    ended, said = command("site", "rotate-key", *where)
    assert (ended, said.strip()) == (0, current(here.state))
    assert command("site", "key-statement", *where, "-o", statement)[0] == 0
    assert set(json.loads(statement.read_bytes())) == {"kind", "site", "rotations"}
    assert command("coordinator", "follow-key", statement, "--home", coordinator.root, "--yes")[0] == 0
    assert pinned(coordinator) == current(here.state)
    told = command("audit", "verify", here.state.gate)[1]
    assert "rotated since the site joined" in told and current(here.state) in told and "sha256sum policy.toml" in told
    statement.write_text("{}")
    ended, said = command("coordinator", "follow-key", statement, "--home", coordinator.root, "--yes")
    assert ended == ConfigInvalid.exit_code and "is no key statement" in said


def test_a_rotated_ledger_is_exported_and_verified_without_the_site(ward, command, tmp_path):
    here = ward()
    rotate_key(here.folder, here.state)
    bundle = tmp_path / "ward.bundle"
    assert command("audit", "export", here.state.gate, "-o", bundle)[0] == 0
    ended, said = command("audit", "verify", bundle)
    assert ended == 0 and current(here.state) in said


@pytest.mark.parametrize("call", [pause_site, resume_site, rotate_key, key_statement])
def test_a_running_gate_must_be_stopped_first(ward, steps, call):
    here = ward()
    _, ledger = here.open_gate(steps["noise_only"])
    before = current(here.state)
    try:
        with pytest.raises(LedgerDamaged, match="Stop the gate of this site first"):
            call(here.folder, here.state)
    finally:
        ledger.close()
    assert (current(here.state), here.traces[0]) == (before, 2)


def test_a_copy_of_the_ledger_from_before_a_rotation_is_refused_and_the_newest_goes_on(ward):
    here = ward()
    before = here.state.ledger.read_bytes()
    rotate_key(here.folder, here.state)
    newest = here.state.ledger.read_bytes()
    here.state.ledger.write_bytes(before)
    with pytest.raises(IdentityInvalid, match="a copy from before its key was changed"):
        here.state.open_ledger("ward-a")
    here.state.ledger.write_bytes(newest)
    with here.state.opened_ledger("ward-a") as ledger:
        assert ledger.public_key == current(here.state)

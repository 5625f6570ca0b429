"""A site's machine is lost: a backup brings it back, only the recovery key opens it, and no noise secret is in it."""

import shutil
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from pair import Pair, power_cut

from fedhealth.cli.main import main
from fedhealth.coordinator.asking import NoRelease
from fedhealth.errors import ConfigInvalid, IdentityInvalid, LedgerBehind, LedgerDamaged
from fedhealth.privacy.entries import Recovered
from fedhealth.privacy.verify import verify_ledger
from fedhealth.signing import public_key_hex
from fedhealth.site import backup
from fedhealth.site.askers import asking_key_of
from fedhealth.site.backup import back_up_site, create_recovery_key, recover_site
from fedhealth.site.held_gate import HeldGate
from fedhealth.site.publishing import articles_key_of
from fedhealth.site.recovery import examine_recovery
from fedhealth.site.state import SiteState


@pytest.fixture
def site(tmp_path, ward, make_protocol, steps):
    """A site that released once, its coordinator, and the two halves of a recovery key."""
    pair = Pair(ward(), make_protocol(), tmp_path, steps["counting"])
    pair.key_file = tmp_path / "recovery.key"
    pair.public = create_recovery_key(pair.key_file)
    pair.backup = tmp_path / "site.backup"
    pair.released = pair.ask(1)
    yield pair
    pair.stop_gate()


def back_up(site):
    return back_up_site(site.here.folder, site.here.state, site.public, site.backup)


def lose_the_machine(site):
    site.stop_gate()
    shutil.rmtree(site.here.state.gate)


def bring_back(site):
    return recover_site(site.here.folder, site.here.state, site.backup, site.key_file)


def the_coordinator_speaks(site):
    """It signs the head of a ledger that is the newest; of an older one it gives back what is missing."""
    with suppress(NoRelease):
        site.meet()


def test_a_lost_site_comes_back_with_what_it_spent_and_answers_as_before(site):
    spent = site.spent()
    assert back_up(site) == 5  # created, policy, approved, reserved, stored; while the gate was running
    kept = {name: (site.here.state.gate / name).read_bytes() for name in ("ledger.key", "naming.secret", "members")}
    lose_the_machine(site)
    found = bring_back(site)
    assert (found.site, found.entries, found.kept) == ("ward-a", 5, ())
    assert {name: (site.here.state.gate / name).read_bytes() for name in kept} == kept
    with pytest.raises(LedgerBehind, match="came from a backup"):
        site.recover()  # not before the coordinator has spoken
    site.start_gate()
    assert isinstance(site.gate, HeldGate)
    the_coordinator_speaks(site)
    assert site.recover() is not None
    site.start_gate()
    assert site.spent() == spent
    assert site.ask(1) == site.released  # stored: the same bytes, no charge
    site.ask(2)
    assert examine_recovery_says_nothing(site)


@pytest.mark.parametrize(("name", "key_of"), [("asking.key", asking_key_of), ("articles.key", articles_key_of)])
def test_a_key_beside_the_gates_comes_back_and_another_one_that_is_there_is_kept_and_named(site, name, key_of):
    state = site.here.state
    public = public_key_hex(key_of(state).public_key())
    back_up(site)
    lose_the_machine(site)
    (state.root / name).unlink()
    with power_cut(Path, "rename", "after"):  # in the midst of bringing it back
        bring_back(site)
    assert bring_back(site).kept == ()
    assert public_key_hex(key_of(state).public_key()) == public
    assert (state.root / name).stat().st_mode & 0o777 == 0o600
    lose_the_machine(site)
    (state.root / name).unlink()
    another = public_key_hex(key_of(state).public_key())
    assert bring_back(site).kept == (name,)
    assert public_key_hex(key_of(state).public_key()) == another != public


def examine_recovery_says_nothing(site):
    site.stop_gate()
    return examine_recovery(site.here.folder, site.here.state) is None


def test_charges_made_after_the_backup_come_back_from_the_coordinator(site):
    back_up(site)
    site.ask(2)
    site.ask(3)
    spent = site.spent()
    lose_the_machine(site)
    bring_back(site)
    site.start_gate()
    the_coordinator_speaks(site)
    assert site.recover() is not None
    assert site.spent() == spent


def test_what_was_open_in_the_backup_stays_charged_and_is_never_computed_with_the_new_noise(site):
    site.cut = lambda kind: kind == "witnessed"
    site.refused(lambda: site.ask(2))  # charged, not computed
    back_up(site)
    site.cut = lambda kind: False
    site.ask(2)  # and then computed after the backup: somebody has seen it with the old noise
    spent = site.spent()
    lose_the_machine(site)
    bring_back(site)
    site.start_gate()
    the_coordinator_speaks(site)
    assert site.recover() is not None
    entries, states = site.entries()
    assert isinstance(entries[-1], Recovered)
    assert list(states.values())[1] == "closed"
    assert site.spent() == spent
    site.start_gate()
    site.refused(lambda: site.ask(2))
    assert site.spent() == spent


def test_no_noise_secret_is_in_a_backup_and_a_recovered_site_has_another(site, monkeypatch):
    noise = (site.here.state.gate / "noise.secret").read_bytes()
    back_up(site)
    lose_the_machine(site)
    bring_back(site)
    files = [path for path in site.here.state.root.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert not [path for path in files if noise in path.read_bytes()]
    assert len((site.here.state.gate / "noise.secret").read_bytes()) == len(noise) == 32
    # Whatever else lies in the folder, such as a known seed, stays out as well.
    assert {path.name for path in site.here.state.gate.iterdir()} == {
        *("ledger.sqlite", "ledger.key", "ledger.restored", "split.secret", "naming.secret", "copies.secret"),
        *("members", "studies", "noise.secret"),
    } | ({"ledger.sqlite-wal"} & {path.name for path in site.here.state.gate.iterdir()})


def test_a_backup_shows_nothing_and_every_byte_of_it_counts(site, tmp_path):
    back_up(site)
    whole = site.backup.read_bytes()
    for name in ("ledger.key", "split.secret", "naming.secret", "copies.secret"):
        assert (site.here.state.gate / name).read_bytes() not in whole
    assert b"ledger" not in whole
    lose_the_machine(site)
    damaged = {
        "a changed byte": whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
        "a changed key": whole[:30] + bytes([whole[30] ^ 1]) + whole[31:],
        "cut off": whole[:-100],
        "cut off at a piece": whole[: len(b"fedhealth-backup-1\n") + 32],
        "with more": whole + b"\0",
        "empty": b"",
        "no backup": b"something else entirely" * 100,
    }
    for what, content in damaged.items():
        site.backup.write_bytes(content)
        with pytest.raises(IdentityInvalid, match="cannot be opened"):
            bring_back(site)
        assert not site.here.state.gate.exists(), what
    site.backup.write_bytes(whole)
    create_recovery_key(tmp_path / "other.key")
    with pytest.raises(IdentityInvalid, match="another recovery key"):
        recover_site(site.here.folder, site.here.state, site.backup, tmp_path / "other.key")
    assert bring_back(site).entries == 5  # what failed before is not in the way


@pytest.mark.parametrize("name", ["../outside.json", "studies/../outside.json", "../outside-ö\0", "studies/ö\0.json"])
def test_a_forged_backup_puts_nothing_where_it_does_not_belong(site, monkeypatch, tmp_path, name):
    """Whoever knows the public half can make one."""
    planted = tmp_path / "planted"
    planted.write_text("planted")
    parts = backup._parts
    monkeypatch.setattr(backup, "_parts", lambda *where: [*parts(*where), (name, planted)])
    back_up(site)
    lose_the_machine(site)
    with pytest.raises(IdentityInvalid, match="unknown part"):
        bring_back(site)
    assert not list(tmp_path.rglob("outside*"))


def test_a_backup_is_never_written_over_a_site_or_a_file_and_never_of_a_damaged_ledger(site):
    back_up(site)
    with pytest.raises(IdentityInvalid, match="overwrite"):
        back_up(site)
    with pytest.raises(ConfigInvalid, match="there is state"):
        bring_back(site)
    site.backup.unlink()
    site.stop_gate()
    content = bytearray(site.here.state.ledger.read_bytes())
    content[5000] ^= 1
    site.here.state.ledger.write_bytes(content)
    with pytest.raises(LedgerDamaged):
        back_up(site)
    assert not site.backup.exists()


def test_the_policy_comes_back_where_it_is_missing_and_is_not_written_over(site, tmp_path):
    (site.here.folder / "search.toml").write_text("# what is searched\n")
    site.here.state.index.mkdir()
    (site.here.state.index / "current").write_text("what is made again of the data")
    back_up(site)
    policy = (site.here.folder / "policy.toml").read_text()
    lose_the_machine(site)
    elsewhere, state = tmp_path / "elsewhere", SiteState(tmp_path / "new-state")
    assert recover_site(elsewhere, state, site.backup, site.key_file).kept == ()
    assert (elsewhere / "policy.toml").read_text() == policy
    assert (elsewhere / "search.toml").read_text() == "# what is searched\n"
    assert not state.index.exists()
    (elsewhere / "policy.toml").write_text(policy + "# changed since\n")
    found = recover_site(elsewhere, SiteState(tmp_path / "newer-state"), site.backup, site.key_file)
    assert found.kept == ("policy.toml",)
    (elsewhere / "site.toml").write_text((elsewhere / "site.toml").read_text().replace("ward-a", "ward-b"))
    with pytest.raises(ConfigInvalid, match="of site 'ward-a'"):
        recover_site(elsewhere, SiteState(tmp_path / "newest-state"), site.backup, site.key_file)


def test_the_commands_make_a_key_back_up_and_recover(site, capsys, monkeypatch, tmp_path):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["fedhealth", "site", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr()

    code, said = run("recovery-key", tmp_path / "key")
    public = said.out.strip()
    assert (code, len(public), (tmp_path / "key").stat().st_mode & 0o777) == (0, 64, 0o600)
    where = (site.here.folder, "--state", site.here.state.root)
    assert run("backup", *where, "--to", site.backup, "--recovery-key", public)[0] == 0
    assert run("backup", *where, "--to", tmp_path / "x", "--recovery-key", "zz")[0] == IdentityInvalid.exit_code
    lose_the_machine(site)
    code, said = run("recover", *where, "--from", site.backup, "--key", tmp_path / "key")
    assert code == 0 and "site 'ward-a'" in said.out and "recover-ledger" in said.out
    assert verify_ledger(site.here.state.gate).head.size == 5

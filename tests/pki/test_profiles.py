"""The profiles: what the program brings along, and that nothing weaker is read."""

from pathlib import Path

import pytest

from fedhealth.errors import ConfigInvalid
from fedhealth.pki import profiles as module
from fedhealth.pki.profiles import Role, load_profiles, profiles

ROOT = Path(__file__).resolve().parents[2]
OWN = Path(module.__file__).with_name("profiles.toml")


def test_what_people_read_is_what_the_program_uses():
    assert (ROOT / "certs" / "profiles.toml").resolve() == OWN
    assert '"pki/*.toml"' in (ROOT / "pyproject.toml").read_text()


def test_the_lifetimes_are_those_of_the_design():
    found = profiles()
    assert (found.root.key, found.issuing.lifetime.days, found.back_date_minutes) == ("P-384", 365, 5)
    for role in (Role.SITE, Role.COORDINATOR):
        assert found.of(role).lifetime.total_seconds() == 24 * 3600
        assert found.of(role).renew_after == found.of(role).lifetime / 3
    assert found.renewal.lifetime.days == 90
    assert found.renewal.renew_after == found.renewal.lifetime / 3


@pytest.mark.parametrize(
    ("good", "weak", "said"),
    [
        ('key = "P-256"\nlifetime_hours = 24 ', 'key = "P-192"\nlifetime_hours = 24 ', "key"),
        ("lifetime_hours = 24 ", "lifetime_hours = 2160 ", "a week at most"),
        ("path_length = 0", "path_length = 1", "path length"),
        ("path_length = 1", "path_length = 2", "path_length"),
        ("renew_after_hours = 8 ", "renew_after_hours = 13 ", "half of its life"),
        ('extended_key_usage = "server"', 'extended_key_usage = "client"', "coordinator is the server"),
        ("back_date_minutes = 5", "back_date_minutes = 60", "back_date_minutes"),
        ("lifetime_days = 365", "lifetime_days = 3654", "lifetime_days"),
        ("[root]", "[root]\nmd5 = true", "unknown key"),
        ("[renewal]", "[renewals]", "renewal"),
    ],
)
def test_refuses_profiles_that_are_weaker(tmp_path, good, weak, said):
    text = OWN.read_text()
    assert good in text
    (tmp_path / "profiles.toml").write_text(text.replace(good, weak, 1))
    with pytest.raises(ConfigInvalid, match=said):
        load_profiles(tmp_path / "profiles.toml")

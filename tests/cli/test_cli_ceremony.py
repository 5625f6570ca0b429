"""The ceremony as people hold it: four commands, two machines, nothing secret carried between them."""

import pytest


def test_four_commands_found_a_federation_and_only_public_files_travel(fedhealth, tmp_path):
    offline, home, stick = tmp_path / "offline", tmp_path / "home", tmp_path / "stick"
    stick.mkdir()
    code, fingerprint, _ = fedhealth("root", "create", "heart", "--root", offline, "--unencrypted")
    assert code == 0 and len(fingerprint) == 64
    addresses = ("--link", "c.example:7443", "--enrolment", "c.example:7444")
    code, witness, said = fedhealth("coordinator", "init", "heart", "--home", home, *addresses)
    assert code == 0 and len(witness) == 64 and "fedhealth root certify" in said
    (stick / "issuing.csr").write_bytes((home / "authority" / "issuing.csr").read_bytes())
    arguments = ("--root", offline, "--unencrypted", "-o", stick / "issuing.crt")
    assert fedhealth("root", "certify", stick / "issuing.csr", *arguments)[0] == 0
    (stick / "root.pem").write_bytes((offline / "root.pem").read_bytes())
    code, installed, said = fedhealth(
        "coordinator", "install", stick / "issuing.crt", stick / "root.pem", "--home", home
    )
    assert (code, installed) == (0, fingerprint) and "certifies until" in said
    assert not any(b"PRIVATE" in path.read_bytes() for path in stick.iterdir())
    # A year later only the last three are held again, and the first two must not be.
    assert fedhealth("root", "create", "heart", "--root", offline, "--unencrypted")[0] == 8
    assert fedhealth("coordinator", "init", "heart", "--home", home, *addresses)[0] == 8
    code, request, _ = fedhealth("coordinator", "request-authority", "--home", home)
    assert code == 0 and request.endswith("issuing.csr")


def test_a_certificate_of_another_coordinator_is_one_message(fedhealth, tmp_path):
    fedhealth("root", "create", "heart", "--root", tmp_path / "root", "--unencrypted")
    for name in ("one", "two"):
        addresses = ("--link", "c.example:7443", "--enrolment", "c.example:7444")
        fedhealth("coordinator", "init", "heart", "--home", tmp_path / name, *addresses)
        request = tmp_path / name / "authority" / "issuing.csr"
        out = ("-o", tmp_path / f"{name}.crt")
        fedhealth("root", "certify", request, "--root", tmp_path / "root", "--unencrypted", *out)
    mixed = ("coordinator", "install", tmp_path / "two.crt", tmp_path / "root" / "root.pem", "--home", tmp_path / "one")
    code, _, said = fedhealth(*mixed)
    assert code == 8
    assert "got the certificate of another key" in said and "Traceback" not in said


@pytest.mark.parametrize("address", ["c.example", "c.example:99999", ":7443", ""])
def test_an_address_that_is_none_is_refused_before_anything_is_made(fedhealth, tmp_path, address):
    addresses = ("--link", address, "--enrolment", "c.example:7444")
    assert fedhealth("coordinator", "init", "heart", "--home", tmp_path / "home", *addresses)[0] == 3
    assert not (tmp_path / "home").exists()

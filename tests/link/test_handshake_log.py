"""What the tap on standard error takes out, what it lets through, and that a flood costs little."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.link.handshake_log import flaw_in
from fedhealth.pki.leaf import Flaw

FAILED = b"I1122 11:29:52.425723    5894 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL: "


@pytest.mark.parametrize(
    ("rest", "flaw"),
    [
        (b"error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate has expired", "expired"),
        (b"error:100000c0:SSL routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE: x", "no-certificate"),
        (b"something of tomorrow's version", "handshake"),
    ],
)
def test_reads_the_reason_out_of_grpcs_line(rest, flaw):
    assert flaw_in(FAILED + rest) is Flaw(flaw)
    assert flaw_in(rest) is None


@given(st.binary(max_size=200))
def test_any_line_is_a_word_or_nothing(line):
    assert flaw_in(line) is None or flaw_in(line) in Flaw
    assert flaw_in(FAILED + line) in Flaw


PROGRAM = """
import logging, os, subprocess, sys
from fedhealth.link.handshake_log import logged_handshakes
logging.basicConfig(format="%(message)s")
grpcs = b"I1122 11:29:52.425723    5894 ssl_transport_security.cc:2563] Handshake failed: NO_SHARED_CIPHER\\n"
with logged_handshakes():
    os.write(2, b"mine 1\\n" + grpcs[:30])
    os.write(2, grpcs[30:] + b"E1122 11:29:52.425723    5894 other.cc:1] of gRPC, and of no interest\\n")
    subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('a child\\\\n')"])
    for _ in range(int(sys.argv[1])):
        os.write(2, grpcs)
    os.write(2, b"mine 2, without an end")
os.write(2, b"\\nafter\\n")
"""


@pytest.mark.parametrize("knocks", [0, 20_000])
def test_lets_everything_else_through_and_turns_failed_handshakes_into_lines_of_the_log(knocks):
    ended = subprocess.run([sys.executable, "-c", PROGRAM, str(knocks)], capture_output=True, text=True, timeout=60)
    lines = ended.stderr.splitlines()
    own = [line for line in lines if not line.startswith("refused a handshake: ")]
    assert ended.returncode == 0
    assert sorted(own) == sorted(["mine 1", "a child", "mine 2, without an end", "after"])
    assert lines[-2:] == ["mine 2, without an end", "after"]
    refused = len(lines) - len(own)
    assert refused == 1 if not knocks else 1 < refused < 200
    assert "NO_SHARED_CIPHER" not in ended.stderr and "of no interest" not in ended.stderr

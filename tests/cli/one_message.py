"""What every mistake of a person comes to: one message, and the files of the demonstration to make mistakes with."""

import re
import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.signing import public_key_hex

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = ROOT / "protocols" / "heart-disease-diagnosis.toml"
RESEARCHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
KEY = public_key_hex(Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32).public_key())


def serve(*arguments):
    """Start a process that serves, whose start fails; it confines itself, so it cannot be this process."""
    command = [sys.executable, "-m", "fedhealth.cli.main", *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def check_one_message(said, words):
    assert said.count("error:") == 1, said
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert said.count("\n") == 1, "a message is one line"
    for word in words:
        assert word in said, f"'{word}' is not in: {said}"
    # The next step is a sentence of its own after what, got and wanted.
    assert re.search(r"\. [A-Z].*", said), said

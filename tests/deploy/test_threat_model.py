"""The threat model says what is tested: every row names a test that exists, or says that nothing stops it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| threat")]


def test_every_threat_has_a_defence_and_a_test():
    assert len(ROWS) > 25
    for row in ROWS:
        threat, stops, shown, _ = (cell.strip() for cell in row.strip("|").split("|"))
        assert threat and stops, row
        assert re.search(r"`tests/[\w/.]+`", shown), row


@pytest.mark.parametrize("name", ["docs/threat-model.md", "SECURITY.md"])
def test_every_test_and_every_document_that_is_named_exists(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    tests = set(re.findall(r"`(tests/[\w/.-]+)`", text))
    links = set(re.findall(r"\]\(([\w/.-]+)\)", text))
    assert len(tests) > 8
    assert not {path for path in tests if not (ROOT / path).exists()}
    assert not {path for path in links if not (ROOT / name).parent.joinpath(path).exists()}

"""The register as a data-protection officer reads it: everything that was approved and charged, nothing of patients."""

import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from audited_site import BUDGET, FIRST, RESEARCHER, SECOND, SECRET_NOTE, SECRET_PAYLOAD, approval, make_gate
from made_up_trial import trial
from published_run import RUN, make_ledger

from fedhealth.compliance.federation import read_federation
from fedhealth.compliance.register import make_register
from fedhealth.compliance.register_page import render_register
from fedhealth.privacy.acts import KeyRotated, Paused, ResearcherDistrusted
from fedhealth.privacy.decisions import FirstApproval, Rejected
from fedhealth.privacy.entries import Created
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.rotation import sign_rotation
from fedhealth.signing import create_signing_key, load_signing_key, public_key_hex
from fedhealth.study.signature import sign_study

MADE = 1_700_000_009_000


class Page(HTMLParser):
    """What stands in a page: its elements with their attributes, and its text without markup."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self._in = [], "", []
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._in.append(tag)

    def handle_endtag(self, tag):
        while self._in and self._in.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self._in:
            self.text += data + " "

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def gates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("states")
    north = make_gate(folder / "north", notes=[SECRET_NOTE])
    return [north, make_ledger(folder / "south", "south")]


@pytest.fixture(scope="module")
def register(gates):
    return make_register(read_federation(gates), MADE)


@pytest.fixture(scope="module")
def page(register):
    return render_register(register)


def test_an_activity_says_what_why_on_which_ground_by_whom_and_what_it_cost(register):
    north, south = register.sites
    first, second = north.activities
    assert (first.text, first.by, first.withdrawn, first.researcher_name) == (FIRST, "ada", None, None)
    assert second.withdrawn == ("ada", 1_700_000_000_500)
    assert (first.declared_patients, first.data_set, first.delta) == (100, "ward", 1e-5)
    training, held_out = first.sides
    assert (training.cohort, training.epsilon_cap, held_out.use.epsilon_spent) == ("training", 4.0, 0.0)
    assert training.use.charged == (1_700_000_001_000, 1_700_000_001_000)
    assert south.activities[0].researcher_name == "dr-lin"
    named = {total.name: (len(total.sites), total.study) for total in register.studies}
    assert {name: sites for name, (sites, _) in named.items()} == {"first": 1, "heart": 1, "second": 1}
    # All were approved at the same time, so that their digests decide the order.
    assert [study for _, study in named.values()] == sorted(study for _, study in named.values())


def test_the_page_says_it_in_words(page):
    text = Page(page).text
    for words in (
        "Register of processing under differential privacy",
        "Who <is> ill & when",  # the title of the south's study, as its researcher wrote it
        "To be audited.",
        "Made-up records.",
        "dr-lin, as the site pinned the key",
        public_key_hex(RESEARCHER.public_key()),
        "by grace, 2023-11-14 22:13 UTC",
        "Withdrawn by ada, 2023-11-14 22:13 UTC",
        "ε 4 at δ 1e-05",
        "3 of at most 4 (train)",
        "withdrew study 'second'",
        RUN.digest,
    ):
        assert words in text


def test_the_page_is_of_one_file_runs_nothing_and_says_which_language_it_is_in(page):
    parsed = Page(page)
    assert parsed.all("html")[0]["lang"] == "en"
    assert not {"script", "link", "img", "iframe", "object", "form"} & {tag for tag, _ in parsed.elements}
    for _, attributes in parsed.elements:
        assert not {"src", "srcset", "onclick", "onload"} & attributes.keys()
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in page
    assert "@import" not in page
    assert "http://" not in page.replace("http-equiv", "")
    assert "https://" not in page
    policy = next(each["content"] for each in parsed.all("meta") if each.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_tables_can_be_read_aloud_and_links_lead_somewhere(page):
    parsed = Page(page)
    tables = page.split("<table")[1:]
    assert tables
    for table in tables:
        assert "<caption>" in table
        head, _, body = table.partition("</thead>")
        columns = head.count('scope="col"')
        assert columns == head.count("<th ")
        for row in re.findall(r"<tr.*?</tr>", body.partition("</table>")[0], re.DOTALL):
            assert row.count('scope="row"') == 1
            assert row.count("<td") == row.count("data-name=") == columns - 1
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in parsed.all("a"):
        assert attributes["href"][1:] in ids
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_nothing_that_depends_on_patients_is_on_the_page(gates, page, tmp_path):
    """The same site with another journal gives the same page, but for the commitments, whose size is the same."""
    assert SECRET_NOTE not in page
    assert SECRET_PAYLOAD.decode() not in page
    assert "They stand in the local journal, which stays at the hospital" in Page(page).text
    again = make_gate(tmp_path / "again", notes=["another note", "and one more"])
    other = render_register(make_register(read_federation([again, gates[1]]), MADE))
    numbers = re.compile(r"[0-9a-f]{12,64}")
    assert numbers.sub("#", other) == numbers.sub("#", page)
    assert len(other) == len(page)


def test_equal_registers_are_equal_pages(register, page):
    assert render_register(register) == page


def test_a_text_that_is_not_at_hand_is_said_to_be_missing(gates, tmp_path):
    ledger = shutil.copyfile(gates[0] / "ledger.sqlite", tmp_path / "ledger.sqlite")
    register = make_register(read_federation([ledger]), MADE)
    assert [each.text for each in register.sites[0].activities] == [None, None]
    text = Page(render_register(register)).text
    assert "A study whose text is not at hand" in text
    assert "no signed study with this digest was at hand" in text
    assert FIRST.digest in text
    assert SECOND.digest in text
    assert "To be audited." not in text


def test_what_is_not_counted_is_said_first(gates, tmp_path):
    (tmp_path / "<east>.bundle").write_bytes(b"fedhealth ledger bundle 1\n")
    register = make_register(read_federation([gates[0], tmp_path / "<east>.bundle"], expected=["west"]), MADE)
    assert [each.name for each in register.not_counted] == [str(tmp_path / "<east>.bundle"), "west"]
    page = render_register(register)
    text = Page(page).text
    assert text.index("This register is not complete") < text.index(
        "1 site were verified" if "1 site were" in text else "1 site"
    )
    assert "there is no ledger of site 'west'" in text
    assert "<east>" not in page
    assert "<east>" in text


def test_a_register_of_nothing_says_so(tmp_path):
    page = Page(render_register(make_register(read_federation([tmp_path / "none"]), MADE)))
    assert "0 sites" in page.text
    assert "This register is not complete" in page.text


def test_a_test_site_is_called_one(tmp_path):
    gate = make_gate(tmp_path / "gate", unsafe=True)
    text = Page(render_register(make_register(read_federation([gate]), MADE))).text
    assert "Test sites are on this page." in text
    assert "nothing that they released is private: north." in text


def test_two_people_who_approved_are_both_named_and_a_key_that_was_let_go_too(tmp_path):
    gate = make_ledger(tmp_path / "gate", "north", approved=False)
    ledger = Ledger.open(gate / "ledger.sqlite", "north", load_signing_key(gate / "ledger.key"))
    researcher = public_key_hex(RESEARCHER.public_key())
    for entry in (
        FirstApproval(study=FIRST.digest, researcher=researcher, by="ada", at=1),
        Rejected(study=FIRST.digest, reason="cost", by="grace", at=2),
        approval(FIRST, "alan"),  # a decision of its own, after the rejection
        FirstApproval(study=RUN.digest, researcher=researcher, by="ada", at=1_600_000_000_000),
        approval(RUN, "grace"),
        ResearcherDistrusted(name="dr-lin", by="ada", at=5),
    ):
        ledger.append(entry)
    ledger.close()
    register = make_register(read_federation([gate]), MADE)
    assert [(each.first, each.by) for each in register.sites[0].activities] == [
        (None, "alan"),
        (("ada", 1_600_000_000_000), "grace"),
    ]
    text = Page(render_register(register)).text
    assert "first by ada, 2020-09-13 12:26 UTC; then by grace, 2023-11-14 22:13 UTC" in text
    assert "ada, then grace, 2023-11-14 22:13 UTC" in text
    assert "dr-lin, as the site pinned the key" in text


def test_acts_and_a_change_of_key_are_listed(tmp_path):
    gate = make_gate(tmp_path / "gate")
    old = load_signing_key(gate / "ledger.key")
    ledger = Ledger.open(gate / "ledger.sqlite", "north", old)
    ledger.append(Paused(by="grace", at=12))
    ledger.rotate(KeyRotated(rotation=sign_rotation("north", old, RESEARCHER), by="ada", at=14), RESEARCHER)
    ledger.close()
    text = Page(render_register(make_register(read_federation([gate]), MADE))).text
    assert "paused the whole site" in text
    assert "intact; paused" in text
    assert f"it began with {public_key_hex(old.public_key())}" in text


def test_a_trial_which_trains_nothing_is_told_as_an_estimate_of_everybody(tmp_path):
    gate = tmp_path / "gate"
    gate.mkdir()
    asked = trial()
    with_a_budget = Created(
        site="north", ledger_key="0" * 64, witness_key="0" * 64, budgets={"trial": BUDGET}, unsafe_test_site=False, at=1
    )
    key = create_signing_key(gate / "ledger.key")
    created = with_a_budget.model_copy(update={"ledger_key": public_key_hex(key)})
    ledger = Ledger.create(gate / "ledger.sqlite", created, load_signing_key(gate / "ledger.key"))
    ledger.append(approval(asked, "ada").model_copy(update={"data_set": "trial", "delta": 1e-4}))
    ledger.close()
    (gate / "studies").mkdir()
    (gate / "studies" / f"{asked.digest}.json").write_bytes(sign_study(asked, RESEARCHER))
    said = Page(render_register(make_register(read_federation([gate]), MADE))).text
    assert "One noised table of sums over all patients of the study. No record, and no figure without noise." in said
    assert "Unit: one patient. ε at most 3 for a patient, at δ 0.0001." in said
    assert "training patient" not in said

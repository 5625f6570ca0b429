"""Publishing articles: what may become public, what an administrator is told, and that a kill leaves no half corpus."""

import json
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.corpora import store as store_module
from fedhealth.corpora.store import CorpusRefused, CorpusStore, parts_in
from fedhealth.errors import ConfigInvalid, DataUnusable
from fedhealth.link.services import Service
from fedhealth.policy.site_file import load_site_file
from fedhealth.search.search_file import Articles
from fedhealth.site import publishing
from fedhealth.site.fetched_corpora import believe_key, published_service
from fedhealth.site.named_patients import Identifiers
from fedhealth.site.publishing import articles_key_of, draft_corpus, patients_named, publish, withdraw_corpus

PATIENTS = "id,age\nAB-1234,60\nDURAND Marie,50\n123456,40\n17,30\n"
PLAIN = {"id": "a", "title": "A title", "text": "A text."}


def line(**fields):
    return json.dumps(PLAIN | fields)


@pytest.fixture
def here(ward):
    made = ward(text=PATIENTS)
    made.file = made.folder.parent / "open.jsonl"
    return made


def draft(here, *lines, licence="CC0-1.0", file=None, name="open"):
    path = file or here.file
    if lines:
        path.write_bytes(b"".join(each if isinstance(each, bytes) else each.encode() + b"\n" for each in lines))
    site = load_site_file(here.folder)
    source = Articles(name=name, path=path, reader="articles")
    return draft_corpus(path, source, licence, site, (here.folder, here.state.root))


def versions(here):
    return {address: held.manifest for address, held in CorpusStore(here.state.published).held().items()}


def test_key_title_text_and_date_are_published_and_no_other_field(here):
    made = draft(
        here, line(id="b", year=2020, note="for us alone"), line(abstract="Ignored."), "", line(_id="", id="c")
    )
    assert [(each.key, str(each.date)) for each in made.articles] == [("a", "None"), ("b", "2020-01-01"), ("c", "None")]
    assert b"for us alone" not in b"".join(made.parts)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([b'{"id": "a", "text": "\xe9"}\n'], "no JSON in UTF-8"),
        (["{"], "no JSON in UTF-8"),
        (["[1]"], "no JSON object"),
        ([line(text=" ")], "no text"),
        ([line(), line(text="Another.")], "two articles are called a"),
        ([line(patient="x")], "it has a patient: field 'patient'"),
        ([line(Subject_ID=1)], "it has a patient: field 'subject_id'"),
        ([line(text="x" * 300_000)], "longer than 256 KiB"),
        ([line(id="k" * 300)], "its name is too long"),
        ([""], "got none"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_line_that_cannot_be_published_refuses_the_whole(here, lines, said):
    with pytest.raises(DataUnusable) as refused:
        draft(here, *lines)
    assert said in str(refused.value)
    assert versions(here) == {}


def test_a_field_that_the_site_calls_its_patients_by_is_refused_but_not_one_that_names_articles(here):
    draft(here, line())  # this ward's patient column is "id"
    site = (here.folder / "site.toml").read_text().replace('patient_column = "id"', 'patient_column = "Dossier"')
    (here.folder / "site.toml").write_text(site)
    with pytest.raises(DataUnusable, match="field 'dossier'"):
        draft(here, line(dossier=5))


def test_more_articles_than_a_corpus_may_have_are_not_read_to_their_end(here, monkeypatch):
    monkeypatch.setattr(publishing, "MAX_ARTICLES", 3)
    with pytest.raises(DataUnusable, match="more than 3 articles"):
        draft(here, *(line(id=str(number)) for number in range(4)), b"\xff\n")  # what follows is not looked at
    monkeypatch.setattr(publishing, "MAX_CORPUS_BYTES", 150)
    with pytest.raises(DataUnusable, match="Publish a selection"):
        draft(here, *(line(id=str(number)) for number in range(3)))


@pytest.mark.parametrize("licence", ["", " ", "two\nlines", "x" * 201])
def test_nothing_is_published_without_a_licence(here, licence):
    with pytest.raises(ConfigInvalid, match="without a licence"):
        draft(here, line(), licence=licence)


def test_nothing_where_records_of_patients_are_kept_is_published(here):
    (here.folder / "sub").mkdir()
    for place in (here.folder / "open.jsonl", here.folder / "sub" / "open.jsonl", here.state.root / "open.jsonl"):
        with pytest.raises(ConfigInvalid, match="where records of patients are kept"):
            draft(here, line(), file=place)
    outside = here.folder.parent / "outside"
    outside.mkdir()
    (outside / "link.jsonl").symlink_to(here.folder / "open.jsonl")
    for place in (outside, here.folder.parent):
        with pytest.raises(ConfigInvalid, match="where records of patients are kept"):
            draft(here, file=place)
    with pytest.raises(ConfigInvalid, match="there is no"):
        draft(here, file=here.folder.parent / "nowhere")


@pytest.mark.processes
def test_an_article_that_holds_a_patients_identifier_is_refused_unless_a_person_looked(here):
    made = draft(
        here,
        line(id="fine", text="17 of 123 patients; 1234 in AB."),
        line(id="number", title="A trial of 123456 letters"),
        line(id="name", text="We thank Marie,\nwhose name is durand Marie."),
        line(id="AB_1234", text="in its own key"),
    )
    with pytest.raises(DataUnusable, match="2 of 4 articles hold an identifier") as refused:
        patients_named(made, here.folder, here.state, ["number"])
    assert "articles AB_1234, name" in str(refused.value)
    named = patients_named(made, here.folder, here.state, ["number", "name", "AB_1234"])
    assert (set(named.named), named.looked_for, named.too_short) == ({"number", "name", "AB_1234"}, 3, 1)
    here.csv.unlink()
    with pytest.raises(DataUnusable, match="nobody can say"):
        patients_named(made, here.folder, here.state, [])


@given(
    identifier=st.from_regex(r"[A-Z]{2}-[0-9]{4,6}", fullmatch=True),
    before=st.text(st.characters(codec="utf-8"), max_size=20),
    after=st.text(st.characters(codec="utf-8"), max_size=20),
)
def test_an_identifier_is_found_wherever_it_stands_as_words_of_its_own(identifier, before, after):
    wanted = Identifiers([identifier, "7", ""])
    assert list(wanted.in_articles([("k", f"{before} {identifier.lower()}. {after}")])) == ["k"]
    assert list(wanted.in_articles([("k", f"X{identifier}9")])) == []
    assert (len(wanted), wanted.too_short) == (1, 1)


def test_the_same_articles_again_change_nothing_and_others_make_a_later_version(here):
    first = publish(draft(here, line()), "ward-a", here.state, now_ms=1000)
    assert publish(draft(here, line()), "ward-a", here.state, now_ms=2000) == first
    second = publish(draft(here, line(text="Other.")), "ward-a", here.state, now_ms=500)  # the clock was put back
    assert (first.version, second.version) == (1000, 1001)
    assert (
        publish(draft(here, line(text="Other."), licence="CC-BY-4.0"), "ward-a", here.state, now_ms=3000).version
        == 3000
    )
    assert stat.S_IMODE((here.state.root / "articles.key").stat().st_mode) == 0o600
    assert {held.key for held in versions(here).values()} == {
        articles_key_of(here.state).public_key().public_bytes_raw().hex()
    }


def test_what_was_withdrawn_may_be_published_again(here):
    with pytest.raises(ConfigInvalid, match="publishes no corpus"):
        withdraw_corpus("open", "ward-a", here.state)
    publish(draft(here, line()), "ward-a", here.state, now_ms=1000)
    assert withdraw_corpus("open", "ward-a", here.state, now_ms=1000).version == 1001
    assert [each.name for each in (here.state.published / "ward-a" / "open").iterdir()] == ["manifest.json"]
    with pytest.raises(ConfigInvalid, match="publishes no corpus"):
        withdraw_corpus("open", "ward-a", here.state)
    assert publish(draft(here, line()), "ward-a", here.state, now_ms=1000).version == 1002


def test_publishing_that_was_cut_off_leaves_the_former_version_and_is_done_again(here, monkeypatch):
    publish(draft(here, line()), "ward-a", here.state, now_ms=1000)
    with monkeypatch.context() as cut:
        cut.setattr(CorpusStore, "put", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            publish(draft(here, line(text="Other.")), "ward-a", here.state, now_ms=2000)
    assert versions(here)["ward-a", "open"].version == 1000
    later = publish(draft(here, line(text="Other.")), "ward-a", here.state, now_ms=2000)
    store = CorpusStore(here.state.published)
    assert versions(here)["ward-a", "open"] == later
    assert b"Other." in b"".join(parts_in(store, store.held()["ward-a", "open"]))


def test_a_full_disk_and_a_folder_of_somebody_else_are_said(here, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(store_module, "LEAST_FREE_BYTES", 2**70)
        with pytest.raises(CorpusRefused, match="too full"):
            publish(draft(here, line()), "ward-a", here.state)
    monkeypatch.setattr(publishing, "locked_folder", lambda _: (_ for _ in ()).throw(PermissionError(13, "no", "x")))
    with pytest.raises(ConfigInvalid, match="may not publish"):
        publish(draft(here, line()), "ward-a", here.state)


def test_what_the_gates_user_put_there_is_not_handed_out(here):
    publish(draft(here, line()), "ward-a", here.state)

    def listed(unheard):
        service = published_service(here.state, unheard)
        assert isinstance(service, Service)
        return json.loads(answered(service))["corpora"]

    assert len(listed(None)) == len(listed(os.geteuid() + 1)) == 1
    assert listed(os.geteuid()) == []
    elsewhere = here.state.published.rename(here.state.root / "elsewhere")
    here.state.published.symlink_to(elsewhere)
    if os.geteuid() == 0:  # a folder of somebody else's, to which the gate's user leads the node
        os.chown(elsewhere, 1, 1)
    assert listed(os.geteuid()) == []


def answered(service):
    import asyncio

    class Empty:
        async def whole(self):
            return b""

    async def ask():
        answer = await service.answer(Empty())
        return b"".join([bytes(chunk) async for chunk in answer.chunks])

    return asyncio.run(ask())


def test_another_key_of_a_hospital_is_believed_by_an_act_of_the_administrator(here):
    (here.state.root / "node").mkdir()
    believe_key(here.state, "va", "ab" * 32)
    assert CorpusStore(here.state.fetched).keys() == {"va": "ab" * 32}

"""The clinician's page as a browser sees it: who is let in, what is shown, what may leave; over a made-up search."""

import asyncio
import html
import json
import re
import socket
import threading
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

pytest.importorskip("tantivy", reason="the extra `search` is not installed")

from clinic import ANSWER, DOCUMENTS, HOSTILE, asker_files, counting
from counted_ward import NOVEMBER_2026
from starlette.testclient import TestClient

from fedhealth.cli.search_text import document_of
from fedhealth.errors import DataUnusable
from fedhealth.page.channel import SearchChannel
from fedhealth.page.messages import receive_bytes
from fedhealth.page.searcher import serve_searches
from fedhealth.page.sessions import IDLE_SECONDS, LONGEST_SECONDS, WRONG_SECONDS, WRONG_TOKENS, Sessions, hash_of
from fedhealth.page.web import PageSettings, make_page
from fedhealth.search.answering import Answer, Hit, Searched, SearchedCorpus
from fedhealth.search.documents import Passage
from fedhealth.search.explanation import Highlight
from fedhealth.site.asking import load_asker
from fedhealth.study.count_query import open_signed_query

PORT = 8462
HOME = f"http://127.0.0.1:{PORT}"
TOKEN = "ABCDE-FGHJK-LMNPQ-RSTUV-WXYZ2"  # noqa: S105 - made up
QUERY = "douleur thoracique <b>"


class MadeUpSearch:
    """Answers as `Searching` does, with every document; remembers what it was asked."""

    def __init__(self):
        self.asked, self.fails = [], None

    def search(self, query, only, *, include_negated, limit):
        self.asked.append((query, only, include_negated))
        if self.fails:
            raise self.fails
        hits = tuple(self._hit(rank, each) for rank, each in enumerate(DOCUMENTS, start=1))
        corpora = (SearchedCorpus("lyon", "cardiology", "CC-BY-4.0", date(2026, 10, 1), 1200),)
        missing, heard = {"basel": "not fetched yet"}, datetime(2026, 11, 22, 8, 30, tzinfo=UTC)
        searched = Searched({"letters": 3, "pubmed": 1}, 9, 2, False, only, 1, corpora, missing, heard)
        return Answer("fr", ("R07.4 Douleur",), ("fièvre",), (), hits, searched)

    def _hit(self, rank, document):
        at = document.text.find("thoracique")
        marks = (Highlight(at, at + 10, "negated", "thoracique", "word"),) if at >= 0 else ()
        passage = Passage(document.key, 0, "", 0, len(document.text), document.text)
        publishers = ("lyon",) if document.kind == "article" else ()
        return Hit(rank, 1.0, replace(document, text=""), passage, marks, ("has (negated): thoracique",), publishers)

    def document(self, source, key):
        return next((each for each in DOCUMENTS if (each.source, each.key) == (source, key)), None)

    def names(self, codes, language):
        return {code: f"{code} {language}" for code in codes if code != "icd10:Z99"}

    def codes_for_a_count(self, query):
        return (("icd10:G20", False), ("icd10:F03", True)) if "Parkinson" in query else ()


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Page:
    """A page, what searches for it, and a browser."""

    def __init__(self, folder, with_asker=True):
        self.search, self.clock, self.unix_ms = MadeUpSearch(), Clock(), NOVEMBER_2026
        self.channel = SearchChannel(answer_seconds=5, ready_seconds=0.2)
        self.counts = folder / "counts.sock"
        files = asker_files(folder)
        asker = load_asker(files["study"], files["key"], files["certificate"]) if with_asker else None
        self.sessions = Sessions(hash_of(TOKEN), self.clock)
        settings = PageSettings(PORT, self.counts, asker)
        self.app = make_page(settings, self.sessions, self.channel, lambda: self.unix_ms)
        self.browser = TestClient(self.app, base_url=HOME)
        self.start_search()

    def start_search(self):
        ours, theirs = socket.socketpair()
        self.channel.attach(ours)
        threading.Thread(target=serve_searches, args=(theirs, self.search, document_of), daemon=True).start()
        return theirs

    def post(self, path, data, **options):
        return self.browser.post(path, data=data | {"mark": self.mark()}, **options)

    def mark(self):
        return re.search(r'name="mark" value="(\w+)"', self.browser.get("/enter").text)[1]

    def enter(self, token=TOKEN):
        return self.post("/enter", {"token": token})


@pytest.fixture
def page(short_path):
    found = Page(short_path)
    assert found.enter().status_code == 200
    return found


def bytes_shown(text):
    return html.unescape(re.search(r'name="bytes" value="([^"]*)"', text)[1])


def test_nobody_gets_in_without_the_token_and_the_token_may_be_typed_in_small_letters(short_path):
    page = Page(short_path)
    for path in ("/", "/asked/1", "/asked/1/1", "/count", "/count/1", "/count/from/1"):
        response = page.browser.get(path, follow_redirects=False)
        assert (response.status_code, response.headers["location"]) == (303, "/enter")
    assert page.enter("ABCDE").status_code == 403
    assert page.enter("").status_code == 403
    assert page.enter(TOKEN.lower().replace("-", " ")).status_code == 200
    cookie = page.browser.cookies.jar
    assert {each.name for each in cookie} == {f"fedhealth-{PORT}", f"fedhealth-form-{PORT}"}
    said = page.enter().history[0].headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(said.split("; "))


def test_after_some_wrong_tokens_everybody_waits_and_then_the_right_one_is_taken(short_path):
    page = Page(short_path)
    for _ in range(WRONG_TOKENS):
        assert page.enter("wrong").status_code == 403
    refused = page.enter()
    assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (429, True)
    page.clock.now += WRONG_SECONDS + 1
    assert page.enter().status_code == 200


@pytest.mark.parametrize(("idle", "used"), [(IDLE_SECONDS + 1, 1), (IDLE_SECONDS - 1, LONGEST_SECONDS)])
def test_a_session_ends_by_itself(page, idle, used):
    passed = 0.0
    while passed < used:
        page.clock.now += idle
        passed += idle
        last = page.browser.get("/", follow_redirects=False)
    assert last.status_code == 303


def test_a_session_that_was_ended_is_forgotten_with_its_questions(page):
    page.post("/ask", {"query": "goutte"})
    cookie = dict(page.browser.cookies)
    page.post("/leave", {})
    again = TestClient(page.app, base_url=HOME, cookies=cookie)
    assert again.get("/asked/1", follow_redirects=False).status_code == 303
    page.enter()
    assert page.browser.get("/asked/1").status_code == 410


@pytest.mark.parametrize("path", ["/enter", "/leave", "/language", "/ask", "/count", "/count/1"])
def test_a_form_that_the_page_did_not_make_does_nothing(page, path):
    stranger = TestClient(page.app, base_url=HOME)
    stranger.get("/enter")
    foreign = re.search(r'name="mark" value="(\w+)"', stranger.get("/enter").text)[1]
    for mark in ("", "x", foreign, "é"):
        assert page.browser.post(path, data={"mark": mark, "token": TOKEN, "query": "goutte"}).status_code == 403
    assert page.browser.post(path, json={"mark": page.mark()}).status_code == 415
    assert page.browser.get("/").status_code == 200  # still in
    assert page.search.asked == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": f"evil.example:{PORT}"}, 421),
        ({"host": "127.0.0.1:1"}, 421),
        ({"host": ""}, 421),
        ({"host": f"localhost:{PORT}"}, 303),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": f"https://127.0.0.1:{PORT}"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": HOME, "sec-fetch-site": "same-origin"}, 303),
    ],
)
def test_only_this_page_under_its_own_address_may_send_a_question(page, headers, status):
    response = page.post("/ask", {"query": "goutte"}, headers=headers, follow_redirects=False)
    assert response.status_code == status


def test_a_foreign_page_can_lead_here_but_have_nothing_searched_and_end_no_session(page):
    page.post("/ask", {"query": "goutte"})
    asked = len(page.search.asked)
    # A page at another port of this machine: to the browser the same site, so that it sends the cookies.
    for loaded in ({"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, {"sec-fetch-dest": "iframe"}):
        headers = {"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate"} | loaded
        assert page.browser.get("/asked/1", headers=headers).status_code == 403
    assert len(page.search.asked) == asked
    led = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    without_cookies = TestClient(page.app, base_url=HOME)  # as a browser asks for a link of a foreign page
    form = without_cookies.get("/", headers=led)
    page.browser.cookies.update(without_cookies.cookies)
    assert page.browser.get("/asked/1").status_code == 200
    mark = re.search(r'name="mark" value="(\w+)"', form.text)[1]
    assert page.browser.post("/ask", data={"mark": mark, "query": "goutte"}).status_code == 403
    assert page.browser.post("/enter", data={"mark": mark, "token": TOKEN}).status_code == 200


@pytest.mark.parametrize(
    "elsewhere",
    [
        "//evil.example",
        "http://evil.example",
        "/\\evil.example",
        "/asked/../..//evil.example",
        "/x\r\nset-cookie:a=b",
        "",
    ],
)
def test_choosing_a_language_leads_nowhere_else(page, elsewhere):
    response = page.post("/language", {"here": elsewhere}, follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, "/")
    assert all(name in (f"language-{PORT}", f"fedhealth-form-{PORT}") for name in response.cookies)


def test_a_form_that_is_too_long_is_refused_before_it_is_read_to_its_end(short_path):
    page = Page(short_path)
    sent = []

    def endless():
        yield b"token="
        while True:
            sent.append(2**16)
            yield b"A" * 2**16

    response = asyncio.run(_posted(page.app, endless()))
    assert response == 413
    assert sum(sent) <= 2**20


async def _posted(app, parts):
    """Return the status of an answer to a form that comes in parts."""
    told = []

    async def receive():
        return {"type": "http.request", "body": next(parts), "more_body": True}

    async def send(message):
        told.append(message)

    headers = [(b"host", f"127.0.0.1:{PORT}".encode()), (b"content-type", b"application/x-www-form-urlencoded")]
    path = {"path": "/enter", "raw_path": b"/enter", "query_string": b"", "root_path": "", "scheme": "http"}
    where = {"type": "http", "method": "POST", "http_version": "1.1", "headers": headers, "server": ("127.0.0.1", PORT)}
    await app(where | path, receive, send)
    return told[0]["status"]


def test_two_strangers_share_no_mark(short_path):
    page = Page(short_path)
    first, second = (TestClient(page.app, base_url=HOME) for _ in range(2))
    marks = {re.search(r'name="mark" value="(\w+)"', each.get("/enter").text)[1] for each in (first, second)}
    assert len(marks) == 2 and dict(first.cookies) != dict(second.cookies)


def test_every_answer_is_for_this_browser_alone(page):
    page.post("/ask", {"query": "goutte"})
    for path in ("/", "/asked/1", "/asked/1/1", "/count", "/style.css", "/none", "/asked/99", "/asked/x"):
        headers = page.browser.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src" not in policy and "unsafe" not in policy
        assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
        assert "frame-ancestors 'none'" in policy and "form-action 'self'" in policy


def test_a_question_is_in_no_address_and_its_answer_can_be_loaded_again(page):
    answer = page.post("/ask", {"query": QUERY})
    assert str(answer.url) == f"{HOME}/asked/1"
    assert page.browser.get("/asked/1").text == answer.text
    assert [query for query, *_ in page.search.asked] == [QUERY, QUERY]


def test_what_a_document_or_a_question_says_is_shown_and_never_obeyed(page):
    texts = [page.post("/ask", {"query": QUERY}).text, *(page.browser.get(f"/asked/1/{n}").text for n in (1, 2, 3, 4))]
    for text in texts:
        assert "<script" not in text and "<b>" not in text and "\u202e" not in text and "\x07" not in text
        assert "javascript:" not in text and "style=" not in text
    assert "&lt;b&gt;goutte&lt;/b&gt;" in texts[0]
    assert html.escape(HOSTILE[:20]) in texts[3]


def test_a_hit_says_why_how_its_text_speaks_of_it_and_whose_it_is(page):
    english = page.post("/ask", {"query": "chest pain"}).text
    assert "has (negated): thoracique" in english
    assert re.search(r'<mark class="negated"[^>]*>thoracique</mark><span class="spoken"> \(denied\)', english)
    assert "letter · 2024-05-31 · patient p1 · male · 72 years" in html.unescape(english)
    assert "4 documents of 2 sources of this hospital, in 9 passages, by words alone" in english
    assert "2 passages are found by their words alone" in english and "1 passages were left out" in english
    assert "No other hospital’s records were searched" in english
    assert "article · published by lyon" in html.unescape(english)
    assert "cardiology of lyon: 1,200 articles (2026-10-01)" in english
    assert "Not searched: articles of basel (not fetched yet)" in english
    assert "as known on 2026-11-22 08:30 UTC" in english
    page.post("/language", {"here": "/asked/1"})
    french = page.browser.get("/asked/1").text
    assert '<html lang="fr">' in french
    assert "contient (nié): thoracique" in french
    assert "Aucun dossier d’un autre hôpital n’a été cherché" in french


def test_the_browsers_language_is_the_pages_until_another_is_chosen(short_path):
    page = Page(short_path)
    found = page.browser.get("/enter", headers={"accept-language": "de, fr-FR;q=0.9, en;q=0.5"}).text
    assert '<html lang="fr">' in found
    assert '<html lang="en">' in page.browser.get("/enter", headers={"accept-language": "x;q=y,, ;q=,"}).text


def test_filters_reach_the_search_as_they_were_typed(page):
    form = {"query": "x", "kind": ["letter", "article"], "since": "2023", "until": "2024-02", "age": "60-79"}
    page.post("/ask", form | {"sex": "male", "code": "I21, atc:B01", "patient": "p1", "negated": "1"})
    ((_, only, negated),) = page.search.asked
    assert (only.kinds, only.since.isoformat(), only.until.isoformat()) == (
        {"letter", "article"},
        "2023-01-01",
        "2024-02-29",
    )
    assert (only.youngest, only.oldest, only.sex, only.patient, negated) == (60, 79, "male", "p1", True)
    assert {f"{code.system}:{code.value}" for code in only.codes} == {"icd10:I21", "atc:B01"}


@pytest.mark.parametrize(
    "wrong",
    [
        *({"query": " \t"}, {"query": "?"}, {"query": "x" * 20_001}, {"since": "05/06/2024"}, {"until": "2024-13"}),
        *({"age": "old"}, {"age": "999"}, {"age": "60-40"}, {"since": "2024", "until": "2023"}, {"sex": "x"}),
        *({"kind": "film"}, {"code": "?"}, {"patient": "p" * 1001}),
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_a_question_that_cannot_be_asked_is_said_and_stays_in_the_form(page, wrong):
    response = page.post("/ask", {"query": "fever"} | wrong)
    assert response.status_code == 422
    assert 'role="alert"' in response.text
    assert page.search.asked == []
    if "query" not in wrong:
        assert 'value="fever"' in response.text


@pytest.mark.parametrize(
    ("path", "status"),
    [("/none", 404), ("/asked/99", 410), ("/asked/1/99", 404), ("/asked/x", 404), ("/count/99", 410), ("/leave", 405)],
)
def test_what_is_not_there_is_said_in_words(page, path, status):
    page.post("/ask", {"query": "goutte"})
    response = page.browser.get(path)
    assert response.status_code == status
    assert 'role="alert"' in response.text


def test_when_what_searches_ends_the_page_says_so_and_goes_on_with_the_next(page):
    page.post("/ask", {"query": "goutte"})
    theirs = page.start_search()
    theirs.shutdown(socket.SHUT_RDWR)
    away = page.browser.get("/asked/1")
    assert (away.status_code, "is being started again" in away.text) == (503, True)
    assert page.browser.get("/asked/1").status_code == 503
    page.start_search()
    assert page.browser.get("/asked/1").status_code == 200


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b'{"answer": "found"}', b'{"answer": "names", "fr": 1}', b"\xff" * 9, None]
)
def test_an_answer_of_another_form_or_length_breaks_the_line_and_nothing_of_it_is_shown(page, answer):
    ours, theirs = socket.socketpair()
    page.channel.attach(ours)
    page.post("/ask", {"query": "goutte"}, follow_redirects=False)
    theirs.sendall((2**31 if answer is None else len(answer)).to_bytes(4, "big") + (answer or b""))
    assert page.browser.get("/asked/1").status_code == 503
    theirs.settimeout(5)
    while theirs.recv(65536):  # until the page hangs up
        pass


def test_a_message_that_says_it_is_too_long_is_not_waited_for():
    ours, theirs = socket.socketpair()
    ours.settimeout(0.1)
    theirs.sendall((101).to_bytes(4, "big"))
    with pytest.raises(ConnectionResetError, match="too long"):
        receive_bytes(ours, 100)


def test_an_error_of_the_search_is_told_in_words_and_a_defect_in_none(page, monkeypatch, caplog):
    page.search.fails = DataUnusable("the index is damaged", next_step="Make it anew.")
    refused = page.post("/ask", {"query": "goutte"})
    assert (refused.status_code, "the index is damaged" in refused.text) == (422, True)
    monkeypatch.setattr("fedhealth.page.views.about", lambda *_: 1 / 0)
    page.search.fails = None
    broken = page.browser.get("/asked/1")
    assert (broken.status_code, "Traceback" in broken.text, "division" in broken.text) == (500, False, False)
    assert "goutte" not in caplog.text


def test_a_count_is_proposed_from_codes_shown_whole_and_leaves_only_when_it_is_confirmed(page):
    page.post("/ask", {"query": "Parkinson sans démence", "age": "62-78", "sex": "female"})
    proposal = page.browser.get("/count/from/1").text
    assert re.findall(r'id="code\d" value="([^"]*)"', proposal) == ["icd10:G20", "icd10:F03", "", "", "", ""]
    assert "<option selected>60</option>" in proposal and "<option selected>80</option>" in proposal
    form = {"code1": "icd10:G20", "has1": "having", "code2": "F03", "has2": "without", "youngest": "60", "oldest": "80"}
    with counting(page.counts) as left:
        shown = page.post("/count", form | {"sex": "female"})
        asked = open_signed_query(bytes_shown(shown.text).encode())
        assert asked.query.model_dump(mode="json") == {
            "quarter": "2026-Q4",
            "all_of": ["icd10:G20"],
            "none_of": ["icd10:F03"],
            "ages": [60, 80],
            "sex": "female",
        }
        assert "60 to under 80 years" in shown.text and "icd10:G20 en" in shown.text
        assert html.escape(bytes_shown(shown.text), quote=True).replace("&quot;", "&#34;") in shown.text
        page.post("/count/2", {})
        page.post("/count/2", {"bytes": bytes_shown(shown.text).replace("female", "male")})
        assert left == []
        counted = page.post("/count/2", {"bytes": bytes_shown(shown.text)})
        assert left == [bytes_shown(shown.text).encode()]
        assert b"rkinson" not in left[0]
        page.post("/count/2", {"bytes": bytes_shown(shown.text)})  # a second tap
        assert len(left) == 1
    assert str(counted.url) == f"{HOME}/count/2"
    text = html.unescape(counted.text)
    # epsilon 0.3: noise beyond 10 has probability 2 e^-3.3 / (1 + e^-0.3) = 0.042, beyond 9 0.057; so within 10.
    assert "<strong>118</strong>" in text and "108 to 128" in text
    assert "fewer than 10" in text and "0 to 19" in text
    assert "no answer: away" in text and "the budget for such questions is spent" in text
    assert "it has not approved the study" in text
    assert "Left out: basel, switzerland, zurich." in text
    assert "Each hospital blurred its own count" in text
    assert len(re.findall("<svg", text)) == len(ANSWER.counts) + 1


@pytest.mark.parametrize(
    "wrong",
    [
        *({"code1": ""}, {"code1": "Madame X"}, {"code1": "Z00123456"}, {"code2": "icd10:G20.1", "has2": "without"}),
        *({"has1": "x"}, {"youngest": "61"}, {"youngest": "80", "oldest": "60"}, {"sex": "x"}, {"has1": "without"}),
    ],
    ids=str,
)
def test_what_may_not_be_asked_elsewhere_is_said_and_prepares_nothing(page, wrong):
    form = {"code1": "icd10:G20", "has1": "having"}
    if "code2" in wrong:
        form["code1"] = "icd10:G20.1"
    with counting(page.counts) as left:
        response = page.post("/count", form | wrong)
    assert (response.status_code, 'role="alert"' in response.text) == (422, True)
    assert (left, page.browser.get("/count/1").status_code) == ([], 410)


def test_nothing_is_proposed_where_the_search_names_no_codes(page):
    page.post("/ask", {"query": "Madame X, 12345678"})
    proposal = page.browser.get("/count/from/1").text
    assert set(re.findall(r'id="code\d" value="([^"]*)"', proposal)) == {""}
    assert "choose codes yourself" in proposal


def test_a_count_that_is_not_answered_or_is_of_another_quarter_is_said(page):
    shown = page.post("/count", {"code1": "icd10:Z99"})
    assert "no classification here knows this code" in shown.text
    failed = page.post("/count/1", {"bytes": bytes_shown(shown.text)})
    assert "Asking again costs nothing" in failed.text
    assert "does not answer" in failed.text  # what the node's socket says
    page.unix_ms += 60 * 86_400_000  # November is in another quarter than January
    late = page.post("/count/1", {"bytes": bytes_shown(shown.text)})
    assert "The quarter has ended" in late.text


def test_without_an_asker_counts_are_not_offered_and_it_is_said_why(short_path):
    page = Page(short_path, with_asker=False)
    page.enter()
    assert "started without an asker’s key" in page.browser.get("/count").text
    assert page.post("/count", {"code1": "icd10:G20"}).status_code == 404


def test_the_bytes_that_leave_name_nobody_and_hold_no_word(page):
    shown = page.post("/count", {"code1": "icd10:G20"})
    leaves = json.loads(bytes_shown(shown.text))
    assert set(leaves) == {"asker", "purpose", "query", "signature", "study"}
    assert set(leaves["asker"]) == {"key", "role", "signature", "site", "until"}

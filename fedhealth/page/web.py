"""The page: what a browser asks, and what it gets. Server-rendered; no script, and nothing from elsewhere.

Questions are sent by forms and kept in the session under a number, so that no address, and with it no history of a
browser, holds what was asked. What may leave the hospital takes two forms: one that prepares a count and shows the very
bytes, and one that lets them leave.

Leaves to others: who may send what (`guard`, `sessions`), the search (`channel`), what a form says (`forms`).
"""

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp

from fedhealth.errors import FedHealthError
from fedhealth.page import views
from fedhealth.page.channel import SearchAway, SearchChannel, SearchRefused
from fedhealth.page.drawing import drawn_counts
from fedhealth.page.forms import AGES, FormWrong, count_form, form_of_query, prepared_of, question_of, typed_in
from fedhealth.page.guard import Guard
from fedhealth.page.messages import Mark
from fedhealth.page.sessions import AskedCount, AskedQuestion, Session, Sessions
from fedhealth.page.words import tongue_of, words_in
from fedhealth.site.asking import Asker, figures_of, have_counted
from fedhealth.study.count_query import MAX_CODES, quarter_of

_MOST_FORM_BYTES, _MOST_FIELDS = 2**19, 64
_SEE_OTHER = 303
Form = dict[str, list[str]]


@dataclass(frozen=True)
class PageSettings:
    """What a page is started with.

    Attributes:
        port: where it listens on the loopback.
        counts: the node's socket for counts.
        asker: who asks other hospitals; None where counts are not offered.
    """

    port: int
    counts: Path
    asker: Asker | None


class _Visit:
    """One request: its visitor, session and language."""

    def __init__(self, request: Request, port: int, sessions: Sessions) -> None:
        self.request = request
        self.cookie_name, self.form_cookie_name = f"fedhealth-{port}", f"fedhealth-form-{port}"
        cookie = request.cookies.get(self.cookie_name, "")
        self.session = sessions.find(cookie) if cookie else None
        # Another one until the token was typed: a browser that a foreign page led here keeps the session's back, and
        # one of the same name would take its place.
        self.form_cookie = request.cookies.get(self.form_cookie_name, "")
        self.cookie = cookie or self.form_cookie
        chosen = request.cookies.get(f"language-{port}", "")
        self.tongue = tongue_of(chosen or request.headers.get("accept-language", ""))
        self.words = words_in(self.tongue)


class _NotIn(Exception):
    """The visitor is led to the form for the token."""


async def _form(request: Request) -> Form:
    """Return a form's fields.

    Raises:
        HTTPException: no form, or one that is too long.
    """
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise HTTPException(415)
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > _MOST_FORM_BYTES:
            raise HTTPException(413)
    try:
        return parse_qs(data.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise HTTPException(400) from None


def make_page(
    settings: PageSettings,
    sessions: Sessions,
    search: SearchChannel,
    now: Callable[[], int] = lambda: time.time_ns() // 10**6,
) -> ASGIApp:
    """Return the page.

    Args:
        settings: how it was started.
        sessions: who is in.
        search: the line to what searches.
        now: milliseconds since 1970.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    environment = views.templates()

    def visit_of(request: Request) -> _Visit:
        return _Visit(request, settings.port, sessions)

    def show(visit: _Visit, template: str, status: int = 200, **values: Any) -> Response:  # noqa: ANN401
        new = "" if visit.cookie else secrets.token_urlsafe(32)
        text = environment.get_template(template).render(
            words=visit.words,
            tongue=visit.tongue,
            session=visit.session,
            mark=sessions.mark(visit.cookie or new),
            here=visit.request.url.path,
            **values,
        )
        response = Response(text, status_code=status, media_type="text/html")
        if new:
            keep_cookie(response, visit.form_cookie_name, new)
        return response

    def keep_cookie(response: Response, name: str, value: str) -> None:
        response.set_cookie(name, value, path="/", httponly=True, samesite="strict")

    def problem(visit: _Visit, said: str, status: int) -> Response:
        return show(visit, "problem.html.jinja", status, said=said)

    def in_session(request: Request) -> _Visit:
        visit = visit_of(request)
        if visit.session is None:
            raise _NotIn
        return visit

    def sent(request: Request, form: Annotated[Form, Depends(_form)]) -> Form:
        visit = visit_of(request)
        cookies = (visit.cookie, visit.form_cookie if request.url.path == "/enter" else "")
        if not any(sessions.is_marked(each, typed_in(form, "mark")) for each in cookies):
            raise HTTPException(403)
        return form

    Visited = Annotated[_Visit, Depends(in_session)]  # noqa: N806 - a type
    Sent = Annotated[Form, Depends(sent)]  # noqa: N806 - a type

    def go(path: str) -> Response:
        return RedirectResponse(path, _SEE_OTHER)

    @app.get("/style.css")
    def style() -> Response:
        return Response(views.style(), media_type="text/css")

    @app.get("/enter")
    def enter_form(request: Request) -> Response:
        visit = visit_of(request)
        return go("/") if visit.session else show(visit, "enter.html.jinja", said="")

    @app.post("/enter")
    def enter(request: Request, form: Sent) -> Response:
        visit = visit_of(request)
        if seconds := sessions.must_wait():
            said = visit.words["wait_token"].format(seconds=seconds)
            response = show(visit, "enter.html.jinja", 429, said=said)
            response.headers["retry-after"] = str(seconds)
            return response
        cookie = sessions.enter(typed_in(form, "token"))
        if cookie is None:
            return show(visit, "enter.html.jinja", 403, said=visit.words["wrong_token"])
        response = go("/")
        keep_cookie(response, visit.cookie_name, cookie)
        return response

    @app.post("/leave")
    def leave(request: Request, _: Sent) -> Response:
        visit = visit_of(request)
        sessions.leave(visit.cookie)
        response = go("/enter")
        response.delete_cookie(visit.cookie_name, path="/", httponly=True, samesite="strict")
        return response

    @app.post("/language")
    def language(request: Request, form: Sent) -> Response:
        response = go(_own_path(typed_in(form, "here")))
        tongue = "fr" if visit_of(request).tongue == "en" else "en"
        keep_cookie(response, f"language-{settings.port}", tongue)
        return response

    @app.get("/")
    def home(visit: Visited) -> Response:
        return show(visit, "home.html.jinja", typed={}, said="", earlier=_earlier(visit.session))

    @app.post("/ask")
    def ask(visit: Visited, form: Sent) -> Response:
        try:
            asked = question_of(form)
        except FormWrong as wrong:
            said, earlier = visit.words[wrong.words].format(**wrong.values), _earlier(visit.session)
            return show(visit, "home.html.jinja", 422, typed=form, said=said, earlier=earlier)
        return go(f"/asked/{_in(visit).keep_question(AskedQuestion(asked, form))}")

    @app.get("/asked/{number}")
    def found(visit: Visited, number: int) -> Response:
        question = _question(visit, number)
        answer = search.search(question.asked)
        question.hits = {hit.rank: hit for hit in answer.hits}
        question.proposed = answer.proposed
        return show(
            visit,
            "found.html.jinja",
            typed=question.typed,
            said="",
            number=number,
            answer=answer,
            is_filtered=not question.asked.only.filter().keeps_all(),
            hits=[
                (hit, views.about(hit, visit.words), views.passage_view(hit), views.reasons(hit, visit.tongue))
                for hit in answer.hits
            ],
        )

    @app.get("/asked/{number}/{rank}")
    def whole(visit: Visited, number: int, rank: int) -> Response:
        question = _question(visit, number)
        if rank not in question.hits:
            raise HTTPException(404)
        hit = question.hits[rank]
        document = search.document(hit.source, hit.key)
        marks = [
            Mark(start=hit.start + each.start, end=hit.start + each.end, assertion=each.assertion, asked="", kind="")
            for each in hit.highlights
        ]
        pieces = views.pieces(document.text, marks)
        return show(
            visit,
            "document.html.jinja",
            number=number,
            document=document,
            about=views.about(hit, visit.words),
            pieces=pieces,
        )

    def proposal(
        visit: _Visit, form: Form, said: str, number: int | None, status: int = 200, why: str = ""
    ) -> Response:
        values = {"typed": form, "said": said, "number": number, "why": why, "ages": AGES, "most": MAX_CODES}
        return show(visit, "count.html.jinja", status, offered=settings.asker is not None, **values)

    @app.get("/count")
    def count(visit: Visited) -> Response:
        return proposal(visit, count_form(None, ()), "", None)

    @app.get("/count/from/{number}")
    def count_from(visit: Visited, number: int) -> Response:
        question = _question(visit, number)
        form = count_form(question.asked, [(each.code, each.unwanted) for each in question.proposed])
        return proposal(visit, form, "", number, why="proposal_from" if question.proposed else "proposal_none")

    @app.post("/count")
    def prepare(visit: Visited, form: Sent) -> Response:
        if settings.asker is None:
            raise HTTPException(404)
        try:
            prepared = prepared_of(form, settings.asker, now())
        except FormWrong as wrong:
            return proposal(visit, form, visit.words[wrong.words].format(**wrong.values), None, 422)
        return go(f"/count/{_in(visit).keep_count(AskedCount(prepared))}")

    @app.get("/count/{number}")
    def leaving(visit: Visited, number: int) -> Response:
        counted, asker = _count(visit, number), settings.asker
        if asker is None:
            raise HTTPException(404)
        query = counted.prepared.query
        values: dict[str, Any] = {
            "number": number,
            "counted": counted,
            "parts": views.parts_of_query(query, visit.words),
            "names": _names(query.all_of + query.none_of, visit),
            "study": asker.study,
        }
        if counted.answer is None:
            return show(visit, "leaving.html.jinja", **values)
        figures = figures_of(counted.answer, asker.study)
        rows = drawn_counts(counted.answer, figures)
        return show(visit, "counted.html.jinja", rows=rows, figures=figures, **values)

    @app.get("/count/{number}/change")
    def change(visit: Visited, number: int) -> Response:
        query = _count(visit, number).prepared.query
        return proposal(visit, form_of_query(query), "", None)

    @app.post("/count/{number}")
    def let_leave(visit: Visited, form: Sent, number: int) -> Response:
        counted = _count(visit, number)
        shown = typed_in(form, "bytes").encode()
        if counted.answer is None and hmac.compare_digest(shown, counted.prepared.signed):
            if counted.prepared.query.quarter != quarter_of(now()):
                counted.failed, counted.why = "leaving_ended", ""
                return go(f"/count/{number}")
            try:
                counted.answer, counted.failed = have_counted(settings.counts, counted.prepared), ""
            except FedHealthError as error:
                counted.failed, counted.why = "count_failed", str(error)
        return go(f"/count/{number}")

    def _names(codes: tuple[str, ...], visit: _Visit) -> list[tuple[str, str]]:
        """Return what codes mean; nothing where the search is away, since a count needs no index here."""
        try:
            names = search.names(codes)
        except (SearchAway, SearchRefused):
            return []
        known = names.fr if visit.tongue == "fr" else names.en
        return [(code, known.get(code, visit.words["no_name"])) for code in codes]

    @app.exception_handler(_NotIn)
    async def not_in(_: Request, __: Exception) -> Response:
        return go("/enter")

    @app.exception_handler(SearchAway)
    async def away(request: Request, _: Exception) -> Response:
        visit = visit_of(request)
        response = show(visit, "away.html.jinja", 503)
        response.headers["retry-after"] = "5"
        return response

    @app.exception_handler(SearchRefused)
    async def refused(request: Request, error: Exception) -> Response:
        return problem(visit_of(request), str(error), 422)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, _: Exception) -> Response:
        visit = visit_of(request)
        return problem(visit, visit.words["no_such_page"], 404)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: Exception) -> Response:
        visit, status = visit_of(request), error.status_code if isinstance(error, HTTPException) else 500
        said = {404: "no_such_page", 405: "no_such_page", 410: "forgotten", 413: "bad_long"}
        return problem(visit, visit.words[said.get(status, "expired_form")], status)

    def broken(request: Request) -> Response:
        visit = visit_of(request)
        return problem(visit, visit.words["broken"], 500)

    return Guard(app, settings.port, broken)


def _own_path(path: str) -> str:
    """Return a path of this page, or its beginning: a form cannot lead elsewhere."""
    plain = path.startswith("/") and not path.startswith("//") and all(each.isalnum() or each == "/" for each in path)
    return path if plain and path.isascii() and path not in ("/ask", "/leave", "/language") else "/"


def _in(visit: _Visit) -> Session:
    if visit.session is None:
        raise _NotIn
    return visit.session


def _question(visit: _Visit, number: int) -> AskedQuestion:
    question = _in(visit).questions.get(number)
    if question is None:
        raise HTTPException(410)
    return question


def _count(visit: _Visit, number: int) -> AskedCount:
    counted = _in(visit).counts.get(number)
    if counted is None:
        raise HTTPException(410)
    return counted


def _earlier(session: Session | None) -> list[tuple[int, str]]:
    questions = session.questions if session else {}
    return [(number, each.asked.query[:120]) for number, each in sorted(questions.items(), reverse=True)][:8]

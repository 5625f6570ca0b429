"""The end that searches: answers the page's questions, one after the other, from the index and nothing else.

It runs in the gate's domain (`fedhealth.site.search_domain`): the gate's user, no network, no other file. What it
answers goes to the page alone. A count is proposed only from codes that the terminology finds in a short question
without identifiers; what leaves is what the clinician makes of it.
"""

import json
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any

from fedhealth.errors import FedHealthError
from fedhealth.page.messages import (
    MAX_ANSWER_BYTES,
    MAX_QUESTION_BYTES,
    MAX_TEXT_CHARACTERS,
    DocumentAsked,
    NamesAsked,
    SearchAsked,
    read_question,
    receive_bytes,
    send_bytes,
)
from fedhealth.search.answering import Answer
from fedhealth.site.searching import Searching

_LOG = logging.getLogger(__name__)


def serve_searches(
    connection: socket.socket, searching: Searching, describe: Callable[[Answer], Mapping[str, Any]]
) -> None:
    """Answer until the page hangs up.

    Args:
        connection: to the page.
        searching: over an open index.
        describe: makes JSON of an answer.
    """
    while True:
        try:
            asked = read_question(receive_bytes(connection, MAX_QUESTION_BYTES))
        except OSError:
            return
        try:
            answer = _answer(asked, searching, describe)
        except FedHealthError as error:
            answer = {"answer": "refused", "what": error.what, "next_step": error.next_step}
        data = json.dumps(answer, default=str).encode()
        if len(data) > MAX_ANSWER_BYTES:
            data = json.dumps({"answer": "refused", "what": "the answer is too long"}).encode()
        try:
            send_bytes(connection, data)
        except OSError:
            return


def _answer(
    asked: SearchAsked | DocumentAsked | NamesAsked,
    searching: Searching,
    describe: Callable[[Answer], Mapping[str, Any]],
) -> Mapping[str, Any]:
    if isinstance(asked, NamesAsked):
        names = {language: searching.names(asked.codes, language) for language in ("fr", "en")}
        return {"answer": "names", **names}
    if isinstance(asked, DocumentAsked):
        found = searching.document(asked.source, asked.key)
        if found is None:
            return {"answer": "refused", "what": "the document is no longer in the index"}
        return {
            "answer": "document",
            **{name: getattr(found, name) for name in ("source", "key", "patient", "kind", "title")},
            **{"date": found.date, "age": found.age, "sex": found.sex},
            "codes": [f"{code.system}:{code.value}" for code in found.codes],
            "text": found.text[:MAX_TEXT_CHARACTERS],
            "is_cut": len(found.text) > MAX_TEXT_CHARACTERS,
        }
    answer = searching.search(
        asked.query, asked.only.filter(), include_negated=asked.include_negated, limit=asked.limit
    )
    proposed = [
        {"code": code, "unwanted": unwanted}
        | {language: searching.names((code,), language).get(code, "") for language in ("fr", "en")}
        for code, unwanted in searching.codes_for_a_count(asked.query)
    ]
    return {"answer": "found", **describe(answer), "proposed": proposed}

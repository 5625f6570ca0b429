"""A made-up hospital for the clinician's page: letters, articles, an index of them, and somebody who may ask others."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "site"))
from counted_ward import ASKER, ASKING_KEY, search_study
from ward import Ward

from fedhealth.canonical import canonical_bytes
from fedhealth.link.counts import CountAnswer, pack_answer
from fedhealth.search.concepts import Terminology
from fedhealth.search.documents import Code, Document
from fedhealth.search.reading import read_document
from fedhealth.secret_file import PUBLIC_MODE, create_file
from fedhealth.signing import create_signing_key, public_key_hex
from fedhealth.site.count_port import CountPort
from fedhealth.site.search_consent import make_index_folder, read_consent
from fedhealth.site.search_index import open_index
from fedhealth.study.count_query import vouch
from fedhealth.study.signature import sign_study

HOSTILE = '<script>alert(1)</script> Madame \u202eX\x07 & "goutte" aiguë\'; drop'
ANSWER = CountAnswer(
    counts={"cleveland": 118, "hungary": 64, "long-beach": None},
    absent={"switzerland": "away", "basel": "budget-spent", "zurich": "not-approved"},
)


def document(key, text, patient="p1", kind="letter", source="letters", **stated):
    return Document(key, patient, kind, stated.pop("title", ""), text, source=source, **stated)


DOCUMENTS = (
    document(
        "p1/2024-05-31 Sortie",
        "Motif d'hospitalisation\nDouleur thoracique depuis deux jours, sans fièvre.\n\nAntécédents\nMaladie de "
        "Parkinson, traitée par lévodopa.\nMère décédée d'un infarctus du myocarde.\n\nConclusion\nPas d'embolie "
        "pulmonaire. Retour au domicile.",
        title="Lettre de sortie",
        date=date(2024, 5, 31),
        age=72,
        sex="male",
        codes=(Code("icd10", "R07.4"), Code("icd10", "G20")),
    ),
    document(
        "p2/2023-02-01 Consultation",
        "Seen for chest pain on exertion. No fever. Parkinson's disease since 2015, on levodopa. Possible angina.",
        "p2",
        title="Consultation",
        date=date(2023, 2, 1),
        age=66,
        sex="female",
    ),
    document("p3/odd", HOSTILE, "p3", title="<b>goutte</b>", date=date(2022, 1, 5)),
    document(
        "39012345",
        "Chest pain is common in Parkinson's disease. We followed 812 patients for four years.",
        None,
        "article",
        "pubmed",
        title="Chest pain in Parkinson's disease: a cohort",
    ),
)


def indexed(root, compiled_terms, documents=DOCUMENTS):
    """Make a site and its index; return it."""
    here = Ward(root, "id\np1\np2\np3\n")
    make_index_folder(here.state)
    for path in compiled_terms.iterdir():
        shutil.copy(path, here.state.index)
        (here.state.index / path.name).chmod(0o600)
    terms = Terminology.load(here.state.index)
    index, _ = open_index(here.state.index, read_consent(here.state, here.folder), create=True)
    with index:
        index.add(documents, partial(read_document, terms=terms), terms.ancestors)
    return here


def asker_files(folder, **counts):
    """Write study, key and certificate of an asker; return the options that name them."""
    study = search_study(**{"epsilon": 0.3, "least_shown": 10, "most_of_an_asker": 5} | counts)
    study = study.model_copy(update={"last_quarter": "2099-Q4"})
    public = public_key_hex(create_signing_key(folder / "my.key"))
    certificate = canonical_bytes(vouch("far-away", public, "clinician", "2099-Q4", ASKING_KEY))
    create_file(folder / "my.asker", certificate, PUBLIC_MODE)
    create_file(folder / "search.signed", sign_study(study, ASKER), PUBLIC_MODE)
    return {"study": folder / "search.signed", "key": folder / "my.key", "certificate": folder / "my.asker"}


@contextmanager
def counting(path, answer=ANSWER):
    """Serve the node's port for counts, with an answer of others; yield what left."""
    left, ready = [], threading.Event()

    async def ask(data):
        left.append(bytes(data))
        return pack_answer(answer)

    async def serve():
        port, stop = CountPort(path, "far-away", ask), asyncio.Event()
        stopping.append(lambda: loop.call_soon_threadsafe(stop.set))
        await port.start()
        ready.set()
        await stop.wait()
        await port.stop()

    stopping, loop = [], asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait(10)
    try:
        yield left
    finally:
        stopping[0]()
        thread.join()
        loop.close()


def until(holds, seconds=30):
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.05)
    return found


class RunningPage:
    """The command's processes, and a browser that is let in."""

    def __init__(self, root, *words, python=sys.executable, **options):
        command = [python, "-m", "fedhealth.cli.main", "site", "page", "--state", str(root), "--port", "0"]
        self.process = subprocess.Popen([*command, "--json", *words], stdout=subprocess.PIPE, text=True, **options)
        self.opened = json.loads(self.process.stdout.readline())
        self.browser = httpx.Client(base_url=self.opened["address"], follow_redirects=True, timeout=60)

    def mark(self):
        return re.search(r'name="mark" value="(\w+)"', self.browser.get("/count").text)[1]

    def post(self, path, **data):
        return self.browser.post(path, data=data | {"mark": self.mark()})

    def child(self, verb):
        """Return the process id of a child, None while there is none."""
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes().decode().split("\0")
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == self.process.pid and verb in words:
                return int(path.name)
        return None

    def stop(self):
        self.browser.close()
        self.process.terminate()
        self.process.wait(10)
        self.process.stdout.close()

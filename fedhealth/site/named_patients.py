"""Whether articles that are to be published name a patient: looked at in the gate's domain, by a process of its own.

Whoever publishes has no patient's identifier: a child becomes the gate's user, leaves the network, confines itself to
reading the site's folder and the index, takes the articles from its standard input and says which of them hold an
identifier of the data set or of the index, by the articles' keys alone.

An identifier shorter than `LEAST_CHARACTERS` is an ordinary number or word; it is not looked for, and said so. That a
text tells of a patient otherwise, by a name or a story, is for the person who publishes to see.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedhealth.corpora.corpus import Article
from fedhealth.errors import DataUnusable

LEAST_CHARACTERS = 5
_WORD = re.compile(r"[^\W\d_]+|\d+")
"""Letters or digits that follow each other: AB-1234, ab 1234 and AB1234 are the same."""
_MOST_WORDS = 8


@dataclass(frozen=True)
class NamedPatients:
    """What was found.

    Attributes:
        named: keys of the articles that hold an identifier of a patient.
        looked_for: how many identifiers that were.
        too_short: how many were too short to be told from ordinary numbers.
    """

    named: tuple[str, ...]
    looked_for: int
    too_short: int


class Identifiers:
    """Identifiers of patients, as words that follow each other.

    Args:
        identifiers: as the data set and the index have them.

    Example:
        >>> list(Identifiers(["AB-1234", "7"]).in_articles([("a", "of patient ab 1234."), ("b", "of 7 patients")]))
        ['a']
    """

    def __init__(self, identifiers: Iterable[str]) -> None:
        words = {tuple(_WORD.findall(each.casefold())) for each in identifiers}
        words.discard(())
        self._wanted = {each for each in words if sum(map(len, each)) >= LEAST_CHARACTERS and len(each) <= _MOST_WORDS}
        self._lengths = sorted({len(each) for each in self._wanted})
        self.too_short = len(words) - len(self._wanted)

    def __len__(self) -> int:
        """Return how many are looked for."""
        return len(self._wanted)

    def in_articles(self, articles: Iterable[tuple[str, str]]) -> Iterator[str]:
        """Yield the keys of the articles, each with its text, that hold an identifier."""
        for key, text in articles:
            words = _WORD.findall(f"{key}\n{text}".casefold())
            if any(
                tuple(words[start : start + length]) in self._wanted
                for length in self._lengths
                for start in range(len(words) - length + 1)
            ):
                yield key


def find_named(folder: Path, root: Path, articles: Iterable[Article]) -> NamedPatients:
    """Return which articles name a patient of this site.

    Args:
        folder: the site's folder.
        root: its state.
        articles: that are to be published.

    Raises:
        DataUnusable: nobody can say, because the data set or the index cannot be read.
    """
    text = "".join(json.dumps([each.key, f"{each.title}\n{each.text}"]) + "\n" for each in articles)
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-P", "-m", "fedhealth.site.named_patients", str(folder.absolute()), str(root.absolute())],
        input=text.encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        sys.stderr.buffer.write(done.stderr)
        raise DataUnusable(
            "nobody can say whether these articles name a patient, so nothing is published",
            got=f"exit code {done.returncode} of the process that looks; what it said stands above",
            next_step="Publish as root, or, where gate and node are one user, as that one.",
        )
    found = json.loads(done.stdout)
    return NamedPatients(tuple(found["named"]), found["looked_for"], found["too_short"])


def _look(folder: Path, root: Path) -> None:
    from fedhealth.site.search_domain import enter_reading_domain

    enter_reading_domain(root, folder)
    # Not before: with them comes numpy, which starts threads.
    from fedhealth.policy.site_file import load_site_file
    from fedhealth.records.source import read_source
    from fedhealth.search import generations
    from fedhealth.site.state import SiteState

    data_set, index = load_site_file(folder).data_set, SiteState(root).index
    table = read_source(data_set.source, strict=False)
    column = table.columns.index(data_set.patient_column)
    identifiers = {cells[column] for _, cells in table.rows}
    if generations.exists(index):
        from fedhealth.search.index import SearchIndex

        with SearchIndex(index) as opened:
            identifiers |= opened.patients()
    wanted = Identifiers(identifiers)
    named = list(wanted.in_articles(json.loads(line) for line in sys.stdin.buffer))
    sys.stdout.write(json.dumps({"named": named, "looked_for": len(wanted), "too_short": wanted.too_short}))


def _main() -> int:
    from fedhealth.errors import FedHealthError
    from fedhealth.local_log import withhold_tracebacks

    withhold_tracebacks()
    try:
        _look(Path(sys.argv[1]), Path(sys.argv[2]))
    except FedHealthError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main())

"""The language of a text, from a two-word question to a long report.

A statistical detector (lingua) is right for sentences and guesses for two words, where Latin and Greek stems are common
to all of medicine: "chest pain" is as much Dutch to it as English. What tells French from English in so few words are
function words, accents and endings, which are added to its odds; another language is believed only where the text is
long enough, or has letters that neither French nor English has.

Leaves to others: what is done in a language (`assertions`, `lexical`).
"""

import functools
import math
import re
import unicodedata
from collections.abc import Sequence

from lingua import Language as LinguaLanguage
from lingua import LanguageDetector, LanguageDetectorBuilder

from fedhealth.search.documents import Language

UNKNOWN = "und"
"""ISO 639-2's code for a text of no language that can be told: codes, figures, nothing."""

SAMPLE_CHARACTERS = 3_000
"""Of the beginning; of a longer text as many from its middle count too, since headings can be of a template."""
SHORT_WORDS = 12
"""Up to so many words a text is French or English unless it can be neither."""
SURE = 0.6
"""Share of a long text's probability that another language must have."""
SURE_OF_FEW_WORDS = 0.9
LEAST_WORDS = 4
MOST_FOREIGN_EVIDENCE = 4.0
"""A few words are of another language if there are so many, lingua is so sure, and no more speaks for our two."""
WORD_EVIDENCE = 2.0
LETTER_EVIDENCE = 2.0
"""What a known word and a French letter weigh, in units of a typical ending and of natural log odds."""
MOST_ODDS = 2.0
SMALLEST_SHARE = 1e-3

FRENCH_WORDS = frozenset(
    """
    on le la les un une des du de d l au aux et ou ni pas ne n sans avec pour par sur dans chez en est sont sous entre
    depuis qui que quel quelle avant après apres mais plus aucun aucune cas suite ce cette ces son sa ses il elle
    toux fièvre fievre douleur douleurs sang os coeur cœur rein reins foie poumon cerveau peau oeil œil dos genou
    cheville hanche épaule epaule jambe bras dent dents gorge ventre tête tete sein enfant femme homme grossesse
    accouchement brûlure plaie chute maladie accident vasculaire cérébral syndrome insuffisance grippe rougeole
    antécédents antecedents examen traitement bilan droite gauche normale jour jours compte rendu motif ordonnance
    """.split()  # noqa: SIM905  # a list of a word a line hides which are missing
)
FUNCTION_FR = frozenset(
    """
    les une des du et est sont avec pour par sur dans aux au pas ou sans à chez ne aucun aucune depuis sous été ce cette
    elle nous ses qui plus n qu
    """.split()  # noqa: SIM905
)
FUNCTION_EN = frozenset(
    "the and or with for from were are to not that this his her which at by as on".split()  # noqa: SIM905
)
"""Not those that a neighbour has, too, such as "la" and "in"."""
PLAIN_SHARE = 0.09
PLAIN_WORDS = 3
PLAIN_ODDS = 4
PLAIN_EVIDENCE = {"fr": 0.6, "en": 0.4}
"""A text is plainly of a language if so much of it are its function words, so many different ones, and so many times
those of the other: of a page in German or Portuguese up to 0.05 are. Or if its words' forms speak for it so much each:
Italian's and Catalan's speak for French with up to 0.4, German's for English with 0.05."""
ENGLISH_WORDS = frozenset(
    """
    the of and or with without for in on by to from is are was were not no at as an after before during due other
    pain chest heart failure disease disorder injury kidney liver lung brain skin eye back knee ankle hip shoulder
    leg arm tooth throat belly head breast child woman man pregnancy birth delivery burn wound fall stroke fever
    cough bleeding blood bone syndrome neoplasm malignant benign swelling weakness shortness breath sore cancer
    unspecified acute chronic primary left right upper lower high low pressure headache rash itching loss weight
    attack poisoning fracture screening treatment what how history diagnosis diagnoses findings procedure status size
    mild moderate severe year years old chief complaint complaints review plan assessment
    """.split()  # noqa: SIM905
)
FRENCH_ENDING = re.compile(
    r"(?:[aeiou]?ite|[eé]mie|[oô]se|ique|aque|aire|pathie|tomie|scopie|graphie|algie|phobie|eur|euse|eux|elle|[eé]re|i[eè]re"
    r"|[eé]e|ement|ienne|isme|ogie|ance|ence|ie|ome|if|ive|al[e]|aux|oire|ure|uire|yse|ant|ante)s?$"
)
ENGLISH_ENDING = re.compile(
    r"(?:itis|emia|osis|oses|ic|ical|ary|ory|pathy|tomy|scopy|graphy|algia|ness|ing|ings|ed|ly|ism|y|ia|ous|ful|ar|oid"
    r"|al|oma|us|ysis|gh|ck|sh|wn|th|ght|ld|nd|w)$"
)
FRENCH_LETTER = re.compile("[éèêëàâçùûîïôœ]")
FOREIGN_LETTER = re.compile("[äößñãõåøæłšžčřěıığşćńśźżąę¿¡]")
WORD = re.compile(r"[^\W\d_]+")

_OWN: dict[LinguaLanguage, Language] = {LinguaLanguage.FRENCH: "fr", LinguaLanguage.ENGLISH: "en"}
_OTHERS = (
    LinguaLanguage.GERMAN,
    LinguaLanguage.SPANISH,
    LinguaLanguage.ITALIAN,
    LinguaLanguage.PORTUGUESE,
    LinguaLanguage.DUTCH,
    LinguaLanguage.POLISH,
    LinguaLanguage.ARABIC,
    LinguaLanguage.RUSSIAN,
    LinguaLanguage.TURKISH,
    LinguaLanguage.CHINESE,
    LinguaLanguage.GREEK,
    LinguaLanguage.HEBREW,
)


def detect(text: str) -> str:
    """Return the ISO 639-1 code of a text's language, or `UNKNOWN` where it has no words.

    Args:
        text: any text; of a long one a part is looked at.

    Returns:
        "fr", "en" or the code of another European or Mediterranean language, Chinese, or "und".

    >>> detect("douleur thoracique"), detect("chest pain"), detect("I50.1")
    ('fr', 'en', 'und')
    """
    sample = unicodedata.normalize("NFC", _sample(text))
    words = WORD.findall(sample.lower())
    if not any(len(word) > 1 for word in words):
        return UNKNOWN
    if (language := _by_function_words(words)) is not None:
        return language
    evidence = french_evidence(words)
    is_latin = any(word < "\u0250" for word in words)
    enough = MOST_ODDS if len(words) < LEAST_WORDS else MOST_FOREIGN_EVIDENCE
    own: Language = "fr" if evidence > 0 else "en"
    if len(words) > SHORT_WORDS:
        enough = PLAIN_EVIDENCE[own] * len(words)
    if is_latin and abs(evidence) >= enough and FOREIGN_LETTER.search(sample.lower()) is None:
        return own  # no odds could tell otherwise, and lingua takes a second to load
    if (other := _other_language(sample, len(words), evidence, is_latin=is_latin)) is not None:
        return other
    ranked = _detector_of_two().compute_language_confidence_values(sample)
    share = {_OWN[each.language]: each.value for each in ranked}
    odds = math.log((share["fr"] + SMALLEST_SHARE) / (share["en"] + SMALLEST_SHARE))
    return "fr" if evidence + max(-MOST_ODDS, min(MOST_ODDS, odds)) > 0 else "en"


def _other_language(sample: str, words: int, evidence: float, *, is_latin: bool) -> str | None:
    """Return the language of a text that is neither French nor English, None where it may be one of them."""
    is_foreign = FOREIGN_LETTER.search(sample.lower()) is not None
    if is_latin and words < LEAST_WORDS and not is_foreign:
        return None
    first = _detector().compute_language_confidence_values(sample)[0]
    if first.language in _OWN:
        return None
    least = SURE
    if is_latin and words <= SHORT_WORDS and not is_foreign:
        least = SURE_OF_FEW_WORDS if abs(evidence) < MOST_FOREIGN_EVIDENCE else 1.0
    return _iso_code(first.language) if first.value > least else None


def _by_function_words(words: Sequence[str]) -> Language | None:
    """Return the language of a text that is plainly French or English, at a hundredth of lingua's cost."""
    if len(words) <= SHORT_WORDS:
        return None
    french, english = ([word for word in words if word in known] for known in (FUNCTION_FR, FUNCTION_EN))
    fewer, more = sorted((french, english), key=len)
    if len(more) < max(PLAIN_SHARE * len(words), PLAIN_ODDS * len(fewer)) or len(set(more)) < PLAIN_WORDS:
        return None
    return "fr" if more is french else "en"


def french_evidence(words: Sequence[str]) -> float:
    """Return how much a few words' forms speak for French (positive) or English (negative).

    Args:
        words: in lower case.
    """
    evidence = 0.0
    for word in words:
        evidence += WORD_EVIDENCE * ((word in FRENCH_WORDS) - (word in ENGLISH_WORDS))
        if word in FRENCH_WORDS or word in ENGLISH_WORDS:
            continue
        evidence += LETTER_EVIDENCE * (FRENCH_LETTER.search(word) is not None)
        evidence += (FRENCH_ENDING.search(word) is not None) - (ENGLISH_ENDING.search(word) is not None)
    return evidence


def _sample(text: str) -> str:
    if len(text) <= SAMPLE_CHARACTERS:
        return text
    middle = len(text) // 2
    half = SAMPLE_CHARACTERS // 2
    return text[:half] + " " + text[middle : middle + half]


def _iso_code(language: LinguaLanguage) -> str:
    return language.iso_code_639_1.name.lower()


@functools.cache
def _detector_of_two() -> LanguageDetector:
    """Tells French from English as well as lingua can, and loads in a moment: the models of all take seconds."""
    return LanguageDetectorBuilder.from_languages(*_OWN).build()


@functools.cache
def _detector() -> LanguageDetector:
    return LanguageDetectorBuilder.from_languages(*_OWN, *_OTHERS).with_low_accuracy_mode().build()

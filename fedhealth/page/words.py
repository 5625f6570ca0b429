"""All words of the page, in English and French: one table. A test compares the two sides."""

from collections.abc import Mapping
from typing import Literal, get_args

Tongue = Literal["en", "fr"]

_TABLE: dict[str, tuple[str, str]] = {
    "title": ("FedHealth search", "Recherche FedHealth"),
    "skip": ("Skip to the content", "Aller au contenu"),
    "menu": ("Menu", "Menu"),
    "new_question": ("Search", "Rechercher"),
    "new_count": ("Count elsewhere", "Compter ailleurs"),
    "leave": ("End session", "Terminer la session"),
    "other_language": ("Français", "English"),
    "aid": (
        "An aid to reading, no diagnosis, and no medical device.",
        "Une aide à la lecture, pas un diagnostic ni un dispositif médical.",
    ),
    "enter_title": ("Open the page", "Ouvrir la page"),
    "enter_why": (
        "The token was shown, or written to a file of yours, when the page was started. It is typed once a session.",
        "Le jeton a été affiché, ou écrit dans un fichier à vous, au démarrage. Il se tape une fois par session.",
    ),
    "token": ("Token", "Jeton"),
    "enter": ("Open", "Ouvrir"),
    "wrong_token": ("This is not the token of this start.", "Ce n’est pas le jeton de ce démarrage."),
    "wait_token": (
        "Too many wrong tokens: try again in {seconds} seconds.",
        "Trop de jetons erronés : réessayez dans {seconds} secondes.",
    ),
    "expired_form": (
        "This form was not made by this page for you, or is too old. Nothing was done.",
        "Ce formulaire n’a pas été fait par cette page pour vous, ou il est trop ancien. Rien n’a été fait.",
    ),
    "no_such_page": ("There is no such page.", "Cette page n’existe pas."),
    "forgotten": (
        "This question is no longer in this session. Ask it again.",
        "Cette question n’est plus dans cette session. Posez-la de nouveau.",
    ),
    "broken": ("Something went wrong on this page. Nothing left.", "Une erreur s’est produite. Rien n’est sorti."),
    "problem": ("This cannot be done", "Ce n’est pas possible"),
    "home_title": ("Search this hospital’s records", "Rechercher dans les dossiers de cet hôpital"),
    "home_why": (
        "What is asked and found here stays in this hospital.",
        "Ce qui est demandé et trouvé ici reste dans cet hôpital.",
    ),
    "question": ("Question", "Question"),
    "question_hint": (
        "In words, French or English; codes and numbers too. “without …” asks for what does not have it.",
        "En mots, en français ou en anglais ; codes et numéros aussi. « sans … » demande ce qui ne l’a pas.",
    ),
    "filters": ("Only some documents", "Seulement certains documents"),
    "kind": ("Kind", "Type"),
    "kind_report": ("report", "compte rendu"),
    "kind_letter": ("letter", "courrier"),
    "kind_record": ("record", "dossier"),
    "kind_image-text": ("image text", "texte d’image"),
    "kind_article": ("article", "article"),
    "since": ("From", "Depuis"),
    "until": ("Until", "Jusqu’à"),
    "date_hint": ("2024, 2024-05 or 2024-05-31", "2024, 2024-05 ou 31.05.2024"),
    "age": ("Age then", "Âge alors"),
    "age_hint": ("65, 40-65, 65- or -17", "65, 40-65, 65- ou -17"),
    "sex": ("Sex", "Sexe"),
    "any": ("any", "indifférent"),
    "female": ("female", "féminin"),
    "male": ("male", "masculin"),
    "code": ("Codes", "Codes"),
    "code_hint": ("I21 B01AC06 atc:B01", "I21 B01AC06 atc:B01"),
    "patient": ("Patient", "Patient"),
    "negated": (
        "Also what a text denies, supposes, or says of the family",
        "Aussi ce qu’un texte nie, suppose ou dit de la famille",
    ),
    "search": ("Search", "Rechercher"),
    "earlier": ("Earlier in this session", "Plus tôt dans cette session"),
    "bad_empty": ("The question has no words.", "La question n’a pas de mots."),
    "bad_long": ("The question has more than 20,000 characters.", "La question dépasse 20 000 caractères."),
    "bad_since": (
        "“From” is no date: 2024, 2024-05 or 2024-05-31.",
        "« Depuis » n’est pas une date : 2024, 2024-05 ou 31.05.2024.",
    ),
    "bad_until": (
        "“Until” is no date: 2024, 2024-05 or 2024-05-31.",
        "« Jusqu’à » n’est pas une date : 2024, 2024-05 ou 31.05.2024.",
    ),
    "bad_age": ("“Age” is no age: 65, 40-65, 65- or -17.", "« Âge » n’est pas un âge : 65, 40-65, 65- ou -17."),
    "bad_order": (
        "Nothing could ever pass these filters: the first day or age is after the last.",
        "Rien ne passerait ces filtres : le premier jour ou âge est après le dernier.",
    ),
    "bad_code": ("A code is none: I21.9, B01AC06, atc:B01.", "Un code n’en est pas un : I21.9, B01AC06, atc:B01."),
    "bad_choice": ("A choice is none of those offered.", "Un choix n’est pas de ceux proposés."),
    "found_title": ("Found in this hospital", "Trouvé dans cet hôpital"),
    "understood": ("Understood as", "Compris comme"),
    "denied": ("Not wanted", "Non voulu"),
    "unknown": (
        "In no document as written, so what is spelled like it was tried",
        "Dans aucun document tel quel ; des graphies proches ont été essayées",
    ),
    "nothing": ("Nothing was found.", "Rien n’a été trouvé."),
    "nothing_denied": (
        "Nothing was found; some texts deny it: tick “also what a text denies”.",
        "Rien n’a été trouvé ; des textes le nient : cochez « aussi ce qu’un texte nie ».",
    ),
    "hits": ("{count} documents, best first", "{count} documents, les meilleurs d’abord"),
    "hit": ("1 document", "1 document"),
    "years": ("{age} years", "{age} ans"),
    "why": ("Why", "Pourquoi"),
    "whole": ("Whole document", "Document entier"),
    "published_by": ("published by {sites}", "publié par {sites}"),
    "assertion_affirmed": ("affirmed", "affirmé"),
    "assertion_negated": ("denied", "nié"),
    "assertion_hypothesis": ("supposed", "supposé"),
    "assertion_family": ("of the family", "de la famille"),
    "assertion_history": ("past", "passé"),
    "searched_title": ("What was searched", "Ce qui a été cherché"),
    "searched": (
        "{documents} documents of {sources} sources of this hospital, in {passages} passages, {how}.",
        "{documents} documents de {sources} sources de cet hôpital, en {passages} passages, {how}.",
    ),
    "by_both": ("by words and meaning", "par mots et par sens"),
    "by_words": ("by words alone", "par mots seulement"),
    "without_vector": (
        "{count} passages are found by their words alone so far.",
        "{count} passages ne sont trouvés que par leurs mots pour l’instant.",
    ),
    "left_out": (
        "{count} passages were left out: they deny what is asked, or have what is not wanted.",
        "{count} passages ont été écartés : ils nient ce qui est demandé, ou ont ce qui n’est pas voulu.",
    ),
    "only_some": ("Only documents that pass the filters.", "Seulement les documents qui passent les filtres."),
    "corpus": (
        "{corpus} of {site}: {articles} articles ({published})",
        "{corpus} de {site} : {articles} articles ({published})",
    ),
    "heard": (
        "What hospitals publish, as known on {heard} UTC.",
        "Ce que les hôpitaux publient, tel que connu le {heard} UTC.",
    ),
    "missing": ("Not searched: articles of {site} ({why})", "Non cherché : articles de {site} ({why})"),
    "not_elsewhere": (
        "No other hospital’s records were searched: of theirs, only blurred counts can be had.",
        "Aucun dossier d’un autre hôpital n’a été cherché : d’eux, seuls des nombres brouillés s’obtiennent.",
    ),
    "back_found": ("Back to what was found", "Retour aux résultats"),
    "cut": ("The document goes on; its beginning is shown.", "Le document continue ; son début est montré."),
    "away": (
        "The search has ended and is being started again. Ask again in a moment.",
        "La recherche s’est arrêtée et redémarre. Redemandez dans un instant.",
    ),
    "try_again": ("Try again", "Réessayer"),
    "count_title": (
        "How many patients do other hospitals have?",
        "Combien de patients les autres hôpitaux ont\u2011ils ?",
    ),
    "count_this": ("Have other hospitals count such patients", "Faire compter de tels patients ailleurs"),
    "count_why": (
        "Codes, ages and a sex are all that can be asked. Nothing leaves before you have seen it and agreed.",
        "On ne peut demander que des codes, des âges et un sexe. Rien ne sort avant que vous l’ayez vu et accepté.",
    ),
    "count_no_key": (
        "Counts are not offered here: the page was started without an asker’s key, certificate and search study.",
        "Les comptes ne sont pas proposés ici : la page a démarré sans clé, certificat ni étude de recherche.",
    ),
    "proposal_from": (
        "Proposed from your question; change it as you like.",
        "Proposé d’après votre question ; modifiez à votre gré.",
    ),
    "proposal_none": (
        "Nothing is proposed from this question: choose codes yourself.",
        "Rien n’est proposé d’après cette question : choisissez les codes vous-même.",
    ),
    "code_number": ("Code {number}", "Code {number}"),
    "having": ("have", "ont"),
    "without": ("do not have", "n’ont pas"),
    "patients_who": ("Patients who", "Patients qui"),
    "youngest": ("Age from", "Âge de"),
    "oldest": ("to under", "à moins de"),
    "show_leaving": ("Show what would leave", "Montrer ce qui sortirait"),
    "bad_count_code": (
        "“{code}” is no code that may leave: icd10:G20 or atc:N04BA.",
        "« {code} » n’est pas un code qui peut sortir : icd10:G20 ou atc:N04BA.",
    ),
    "bad_count_codes": (
        "One to six different codes, at least one that patients have, none both wanted and unwanted.",
        "D’un à six codes différents, au moins un que les patients ont, aucun à la fois voulu et non voulu.",
    ),
    "bad_count_ages": ("The first age must be below the second.", "Le premier âge doit être inférieur au second."),
    "leaving_title": ("This would leave the hospital", "Ceci sortirait de l’hôpital"),
    "leaving_all": (
        "This and your public key with your role and your hospital’s name; nothing else.",
        "Ceci et votre clé publique avec votre rôle et le nom de votre hôpital ; rien d’autre.",
    ),
    "part_having": ("having", "ayant"),
    "part_without": ("without", "sans"),
    "part_ages": ("ages", "âges"),
    "part_sex": ("sex", "sexe"),
    "part_quarter": ("quarter", "trimestre"),
    "part_for": ("for", "pour"),
    "under_study": ("{purpose}, under study “{name}” ({digest})", "{purpose}, selon l’étude « {name} » ({digest})"),
    "ages_value": ("{low} to under {high} years", "de {low} à moins de {high} ans"),
    "no_name": ("no classification here knows this code", "aucune classification d’ici ne connaît ce code"),
    "exact": ("Exactly these bytes", "Exactement ces octets"),
    "costs": (
        "A question that is new in this quarter costs each hospital’s patients epsilon {epsilon}; you may cause "
        "{most} new ones in a quarter. Asked again in the quarter, it is answered with the same numbers, free.",
        "Une question nouvelle dans ce trimestre coûte aux patients de chaque hôpital un epsilon de {epsilon} ; vous "
        "pouvez en causer {most} par trimestre. Reposée dans le trimestre, elle reçoit les mêmes nombres, sans frais.",
    ),
    "let_leave": ("Let it leave", "Laisser sortir"),
    "change": ("Change it", "Modifier"),
    "nothing_left": ("Nothing has left so far.", "Rien n’est encore sorti."),
    "counted_title": ("What the other hospitals say", "Ce que disent les autres hôpitaux"),
    "hospital": ("Hospital", "Hôpital"),
    "patients": ("Patients", "Patients"),
    "interval": ("Within", "Entre"),
    "fewer": ("fewer than {least}", "moins de {least}"),
    "together": ("Counts that were told, together", "Nombres donnés, ensemble"),
    "range": ("{low} to {high}", "{low} à {high}"),
    "no_answer": ("no answer: {why}", "pas de réponse : {why}"),
    "absent_away": ("away", "absent"),
    "absent_busy": ("busy", "occupé"),
    "absent_policy": ("its rules forbid it", "ses règles l’interdisent"),
    "absent_not-approved": ("it has not approved the study", "il n’a pas approuvé l’étude"),
    "absent_budget-spent": ("the budget for such questions is spent", "le budget pour de telles questions est épuisé"),
    "absent_bad-request": ("it does not take this question", "il n’accepte pas cette question"),
    "blurred": (
        "Each hospital blurred its own count, so that no patient can be told from it; the truth is within the bar in "
        "19 of 20. “Fewer” is said of the blurred count.",
        "Chaque hôpital a brouillé son propre nombre, pour qu’aucun patient ne s’en déduise ; la vérité est dans la "
        "barre 19 fois sur 20. « Moins de » est dit du nombre brouillé.",
    ),
    "counted_what": ("What was counted", "Ce qui a été compté"),
    "left_out_sites": ("Left out: {sites}.", "Sans : {sites}."),
    "all_answered": ("Every hospital that was asked answered.", "Chaque hôpital interrogé a répondu."),
    "none_answered": ("No other hospital takes part in this study.", "Aucun autre hôpital ne participe à cette étude."),
    "count_failed": (
        "There is no answer. Asking again costs nothing.",
        "Il n’y a pas de réponse. Redemander ne coûte rien.",
    ),
    "leaving_ended": (
        "The quarter has ended since this was prepared. Nothing left; prepare it again.",
        "Le trimestre a pris fin depuis. Rien n’est sorti ; préparez-le de nouveau.",
    ),
}

_REASONS_IN_FRENCH = (
    ("has in the other language: ", "contient, dans l’autre langue : "),
    ("has, spelled right: ", "contient, bien orthographié : "),
    ("has in the other language (", "contient, dans l’autre langue ("),
    ("has, spelled right (", "contient, bien orthographié ("),
    ("has (", "contient ("),
    ("has: ", "contient : "),
    ("has ", "contient "),
    ("its source states ", "sa source indique "),
    ("its title has: ", "son titre contient : "),
    ("names ", "nomme "),
    ("speaks of ", "parle de "),
    ("none of the words, but similar in meaning (", "aucun des mots, mais proche par le sens ("),
    ("similar in meaning (", "proche par le sens ("),
)
"""How the reasons of `fedhealth.search.explanation` begin."""


def words_in(tongue: Tongue) -> Mapping[str, str]:
    """Return the table's side of a language."""
    return _SIDES[tongue]


def _unbroken(text: str) -> str:
    """Return a French text whose signs of two parts stay on the line of their word."""
    for sign in "?!:;»":
        text = text.replace(f" {sign}", f"\u00a0{sign}")
    return text.replace("« ", "«\u00a0")


_SIDES: dict[Tongue, dict[str, str]] = {
    "en": {name: english for name, (english, _) in _TABLE.items()},
    "fr": {name: _unbroken(french) for name, (_, french) in _TABLE.items()},
}


def reason_in(tongue: Tongue, reason: str) -> str:
    """Return why a passage is a hit, in a language."""
    if tongue == "fr":
        for english, french in _REASONS_IN_FRENCH:
            if reason.startswith(english):
                reason = _unbroken(french) + reason.removeprefix(english)
                break
        reason = reason.replace(" of 1)", " sur 1)")
        for name in ("negated", "hypothesis", "family", "history"):
            reason = reason.replace(f" ({name})", f" ({_SIDES['fr'][f'assertion_{name}']})")
    return reason


def tongue_of(accept_language: str) -> Tongue:
    """Return the page's language for a browser's Accept-Language: French where it is preferred to English."""
    best: tuple[float, Tongue] = (0.0, "en")
    for part in accept_language.lower()[:500].split(","):
        name, _, quality = part.strip().partition(";q=")
        try:
            weight = float(quality) if quality else 1.0
        except ValueError:
            continue
        for tongue in get_args(Tongue):
            if name.split("-")[0] == tongue and weight > best[0]:
                best = (weight, tongue)
    return best[1]

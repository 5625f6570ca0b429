"""The register as one HTML page for a data-protection officer: it loads nothing, runs nothing, and prints on A4.

Invariants: every text that comes from outside is escaped; what was spent is rounded up and what is left down, never
the other way; equal registers give equal bytes. It adds nothing up: `fedhealth.compliance.register` did. Torch-free.
"""

import math
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from fedhealth.compliance.register import Register
from fedhealth.compliance.times import time_text
from fedhealth.study.features import NumberCondition, NumberFeature
from fedhealth.study.protocol import Study
from fedhealth.study.search_study import SearchStudy


def render_register(register: Register) -> str:
    """Return the register as one HTML page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "time": time_text,
        "epsilon": _epsilon,
        "spent": _spent,
        "left": _left,
        "columns": _columns,
        "conditions": _conditions,
        "leaves": _leaves,
        "guarantee": _guarantee,
    }
    template = files("fedhealth.compliance").joinpath("register.html.jinja").read_text(encoding="utf-8")
    texts = {each.study: each.text for site in register.sites for each in site.activities if each.text is not None}
    return environment.from_string(template).render(register=register, texts=texts)


def _epsilon(epsilon: float) -> str:
    """Return two decimals, rounded up: a cost is never understated."""
    return f"{math.ceil(epsilon * 100 - 1e-9) / 100:.2f}" if math.isfinite(epsilon) else "no bound"


def _spent(share: float) -> str:
    return f"{math.ceil(share * 1000 - 1e-9) / 10:.1f}\u00a0%"


def _left(share: float) -> str:
    return f"{math.floor(share * 1000 + 1e-9) / 10:.1f}\u00a0%"


def _columns(study: Study | SearchStudy) -> str:
    """Return the columns that a study reads, with units: the categories of data."""
    if isinstance(study, SearchStudy):
        return "diagnoses and drugs as codes; year of birth; sex (what is asked: how many patients)"
    features = [
        f"{feature.column} ({feature.unit})" if isinstance(feature, NumberFeature) else feature.column
        for feature in study.features
    ]
    conditions = [each.column for each in study.include if each.column not in {part.column for part in study.features}]
    coded = ["diagnoses and drugs as codes, year of birth and sex (who is in the cohort)"] if study.cohort else []
    asked = f"{', '.join(study.endpoint.columns)} (what is asked)"
    return "; ".join([*features, *dict.fromkeys(conditions), *coded, asked])


def _conditions(study: Study | SearchStudy) -> str:
    """Return who is in the cohort, with how many records, in words."""
    if isinstance(study, SearchStudy):
        return (
            f"every patient in the site's index; at most {study.counts.most_codes_of_a_patient} codes of each patient"
        )
    said = [f"by codes: {study.cohort.words}"] if study.cohort else []
    said += [
        f"{each.column} from {each.range[0]:g} to {each.range[1]:g}"
        if isinstance(each, NumberCondition)
        else f"{each.column} is {' or '.join(each.any_of)}"
        for each in study.include
    ]
    said += [f"{each.column} is known" for each in study.features if each.missing == "exclude"]
    cohort = "; ".join(said) or f"every patient with a value of {study.endpoint.column}"
    records = "record" if study.max_records_per_patient == 1 else "records"
    return f"{cohort}; at most {study.max_records_per_patient} {records} of each patient"


def _leaves(study: Study | SearchStudy) -> str:
    """Return what leaves a site, in words."""
    if isinstance(study, SearchStudy):
        counts = study.counts
        return (
            f"Noised counts of patients, one for each new question from {study.first_quarter} to {study.last_quarter}: "
            f"at most {counts.most}; {counts.shares}; below "
            f"{counts.least_shown} only the word “fewer”."
        )
    if study.training is None:
        return "One noised table of sums over all patients of the study."
    releases = study.rounds + study.spare_rounds
    return f"Noised sums over patients: at most {releases} from training patients, one table from held-out ones."


def _guarantee(study: Study | SearchStudy) -> str:
    """Return what a patient may pay, in words."""
    if isinstance(study, SearchStudy):
        return f"ε {study.counts.epsilon:g} for each count, for every patient; all together as stated below."
    privacy = study.privacy
    if study.training is None:
        return f"ε at most {privacy.evaluation_epsilon:g} for a patient, at δ {privacy.delta:g}."
    return (
        f"ε at most {privacy.training_epsilon:g} for a training patient, {privacy.evaluation_epsilon:g} for a held-out "
        f"patient, at δ {privacy.delta:g}. {100 * study.evaluation.held_out_fraction:g} % of patients are held "
        "out; nobody is on both sides."
    )

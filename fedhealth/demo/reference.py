"""The reference: what nobody could know of a federation, computed because the records of these sites are public.

It opens the sites' tables itself, in one place, and compares three kinds of model on the held-out patients: the
federation's, one trained at each hospital alone, and one trained on all records together. The last two are logistic
regressions without clipping and without noise (`fedhealth.learning.raw_figures`).

Invariants: no table is opened before every site has said `public_data = true`; nothing here takes part in a
federation, and no module of FedHealth imports this one. It is a program of its own:

    python -m fedhealth.demo.reference --protocol P --model model.safetensors --site-folder sites/cleveland --out F

Showing the figures is left to `fedhealth.coordinator.report`.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from fedhealth.coordinator.report import Reference, Score, SiteReference
from fedhealth.errors import ConfigInvalid, DataUnusable, FedHealthError, PolicyForbids
from fedhealth.learning.model_file import read_model
from fedhealth.learning.raw_figures import Outcomes, area_under_curve, fit_without_privacy, outcomes_of
from fedhealth.policy.site_file import SiteFile, load_site_file
from fedhealth.records.source import read_source
from fedhealth.records.table import Records, prepare_records
from fedhealth.study.protocol import Study, load_study


def score_of(outcomes: Outcomes) -> Score:
    """Return raw accuracy and AUC."""
    right = (outcomes.scores > 0) == outcomes.ill
    return Score(accuracy=float(right.mean()), auc=area_under_curve(outcomes.scores, outcomes.ill))


def make_reference(study: Study, model: bytes, site_folders: Sequence[Path]) -> Reference:
    """Return the raw figures of a federation of public data.

    Args:
        study: the protocol that was run.
        model: the content of `model.safetensors`.
        site_folders: the sites' folders, each with its `site.toml`.

    Raises:
        PolicyForbids: a site does not say that its records are public; no table was opened.
        ConfigInvalid: a site file is wrong, or one site is named twice.
        DataUnusable: a table or the model is not as the protocol needs it.
    """
    sites = _public_sites(site_folders, study)
    federated = read_model(model, study).weights
    sides = {site.id: _sides_of(site, study) for site in sites}
    training = [sides[site.id][0] for site in sites]
    held_out = [sides[site.id][1] for site in sites]
    parts = []
    for site, own, kept in zip(sites, training, held_out, strict=True):
        alone = fit_without_privacy([own])
        parts.append(
            SiteReference(
                site=site.id,
                training_patients=own.patient_count,
                held_out_patients=kept.patient_count,
                held_out_ill=int(outcomes_of(alone, [kept]).ill.sum()),
                local_alone=score_of(outcomes_of(alone, [kept])),
                local_alone_pooled=score_of(outcomes_of(alone, held_out)),
                federated=score_of(outcomes_of(federated, [kept])),
            )
        )
    return Reference(
        study=study.digest,
        model_sha256=hashlib.sha256(model).hexdigest(),
        sites=tuple(parts),
        federated=score_of(outcomes_of(federated, held_out)),
        pooled_without_privacy=score_of(outcomes_of(fit_without_privacy(training), held_out)),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write `reference.json`; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m fedhealth.demo.reference",
        description="Raw figures of a federation whose records are public. For no other data.",
    )
    parser.add_argument("--protocol", type=Path, required=True, help="the study protocol that was run")
    parser.add_argument("--model", type=Path, required=True, help="the model.safetensors it gave")
    parser.add_argument("--site-folder", type=Path, required=True, action="append", help="once for each site")
    parser.add_argument("--out", type=Path, required=True, help="where to write reference.json")
    given = parser.parse_args(arguments)
    try:
        reference = make_reference(load_study(given.protocol), given.model.read_bytes(), given.site_folder)
        given.out.write_text(reference.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except FedHealthError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"{error.filename} cannot be used; got {error.strerror}. Check the path.\n")
        return FedHealthError.exit_code
    return 0


def _public_sites(folders: Sequence[Path], study: Study) -> list[SiteFile]:
    """Read every `site.toml` and nothing else, and let only public data pass."""
    sites = sorted((load_site_file(folder) for folder in folders), key=lambda site: site.id)
    if len({site.id for site in sites}) != len(sites) or not sites:
        raise ConfigInvalid("the reference needs each site's folder once", got=", ".join(site.id for site in sites))
    for site in sites:
        if not site.public_data or site.split_key is None:
            raise PolicyForbids(
                f"the reference shows raw figures, and the records of site '{site.id}' are not public",
                got="public_data = false or absent in its site.toml",
                wanted="public_data = true, and that in truth",
                next_step="Leave the site out. There is no reference for patients whose records are not public.",
            )
        if site.data_set.name != study.data_set:
            raise ConfigInvalid(
                f"site '{site.id}' has another data set than study '{study.name}' asks for",
                got=f"'{site.data_set.name}'",
                wanted=f"'{study.data_set}'",
            )
    return sites


def _sides_of(site: SiteFile, study: Study) -> tuple[Records, Records]:
    data = site.data_set
    table = read_source(data.source, strict=True)
    key = bytes.fromhex(site.split_key or "")
    sides = prepare_records(table, study, data.patient_column, key, data.split_column, strict=True)
    if not all(side.patient_count for side in sides):
        raise DataUnusable(f"site '{site.id}' has no patients on one side of the split")
    return sides


if __name__ == "__main__":
    sys.exit(main())

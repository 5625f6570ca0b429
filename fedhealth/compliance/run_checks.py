"""What a third party can check of a run, offline: from the folder that was published alone, and with ledgers more.

From the folder: the coordinator's seal over every file; the study's signature; that every figure of the evidence
follows from the noisy counts and the protocol, which the functions that made them work out again; the model's hash and
form; the report, which is rendered again and compared to the byte; the sites' signed heads. With a site's ledger or
exported bundle: that it extends its head, approved this study, charged exactly these releases, evaluated exactly this
model, and released exactly these counts.

No check can tell whether a site computed what it was asked, or whose a key is: keys are shown, to be compared with
those that were certified. A check that cannot be made says so and is no success. Torch-free.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import fedhealth
from fedhealth.compliance.agreement import differences
from fedhealth.compliance.checked_run import Check, CheckedRun, NotAtHand, check_failed, made
from fedhealth.compliance.federation import Federation
from fedhealth.compliance.run_ledgers import check_ledger
from fedhealth.compliance.run_rounds import check_rounds
from fedhealth.coordinator.evidence import Evidence, SiteEvidence, evidence_bytes, evidence_of, result_of
from fedhealth.coordinator.model_card import render_model_card
from fedhealth.coordinator.run_folder import (
    EVIDENCE,
    MODEL,
    MODEL_CARD,
    PUBLISHED,
    REPORT,
    SEAL,
    SIGNED_STUDY,
    Seal,
    open_seal,
    sha256_of,
)
from fedhealth.errors import IdentityInvalid, RunAltered
from fedhealth.learning.model_file import ModelFile, notes_of, read_model
from fedhealth.learning.plan import encode_counts, plan_study
from fedhealth.privacy.checkpoint import open_checkpoint
from fedhealth.signing import load_public_key
from fedhealth.study.signature import SignedStudy, open_signed_study

_PRIVACY = ("spent", "epsilon", "delta")
_MOST_BYTES = 1 << 30
_Value = TypeVar("_Value")


@dataclass
class _Read:
    """What of a run's folder could be read so far; owned by `check_run`."""

    seal: Seal | None = None
    evidence: Evidence | None = None
    signed: SignedStudy | None = None
    model: ModelFile | None = None
    bounded: bool = False
    """The numbers of releases are such as can be, so that working out what they cost takes no time."""


def is_run(path: Path) -> bool:
    """Say whether a folder is one that a run published, with or without all of its files."""
    return path.is_dir() and not (path / "ledger.sqlite").exists() and any((path / name).exists() for name in PUBLISHED)


def check_run(folder: Path, ledgers: Federation, witness_key: str | None = None) -> CheckedRun:
    """Check a run's folder.

    Args:
        folder: as the coordinator published it.
        ledgers: those of sites that are at hand; may be none. One that failed to verify fails a check here.
        witness_key: the coordinator's, as its operator told it, 64 hexadecimal digits; None to take the seal's word.
    """
    read = _Read()
    steps: list[tuple[str, Callable[[], str]]] = [("seal", partial(_check_seal, folder, read, witness_key))]
    steps += [(f"file {name}", partial(_check_file, folder, read, name)) for name in PUBLISHED]
    steps += [
        ("evidence", partial(_check_evidence, folder, read)),
        ("study", partial(_check_study, folder, read)),
        ("rounds", partial(_check_rounds, read)),
        ("privacy cost", partial(_check_figures, read, True)),
        ("figures", partial(_check_figures, read, False)),
        ("model", partial(_check_model, folder, read)),
        ("model card", partial(_check_model_card, folder, read)),
        ("report", partial(_check_report, folder, read)),
    ]
    checks = [made(name, step) for name, step in steps]
    sites = read.evidence.sites if read.evidence else ()
    checks += [made(f"head of {site.site}", partial(_check_head, site)) for site in sites]
    by_site = {ledger.site: ledger for ledger in ledgers.sites}
    for site in sites:

        def of_ledger(site: SiteEvidence = site) -> str:
            if site.site not in by_site:
                raise NotAtHand("not given; approval and charges not compared")
            if read.evidence is None or read.signed is None or read.model is None:
                raise NotAtHand("evidence, study or model cannot be read")
            seal = read.seal.coordinator if read.seal else None
            return check_ledger(by_site[site.site].history, read.evidence, site, read.signed, read.model.weights, seal)

        checks.append(made(f"ledger of {site.site}", of_ledger))
    checks += [check_failed(f"ledger {each.name}", each.error) for each in ledgers.failed]
    names = {site.site for site in sites}
    checks += [
        Check(f"ledger of {site}", "not checked", "this site is not in the evidence")
        for site in by_site
        if site not in names
    ]
    checks += [Check(f"file {name}", "not checked", "it is no part of a run") for name in _others(folder, ledgers)]
    simulation = read.evidence is not None and read.evidence.simulation
    return CheckedRun(tuple(checks), _keys(read), _unsafe(read, ledgers), simulation)


def _data(folder: Path, name: str) -> bytes:
    path = folder / name
    if not path.is_file():
        raise RunAltered(f"there is no {name}")
    if path.stat().st_size > _MOST_BYTES:
        raise RunAltered(f"{name} is larger than anything that a run publishes")
    return path.read_bytes()


def _check_seal(folder: Path, read: _Read, witness_key: str | None) -> str:
    seal = open_seal(_data(folder, SEAL))
    if witness_key is not None and seal.coordinator != witness_key.lower():
        raise IdentityInvalid(f"it is by key {seal.coordinator[:12]}, not by the witness key that was given")
    read.seal = seal
    if unknown := sorted(read.seal.contents.files.keys() - set(PUBLISHED)):
        raise RunAltered("the seal is over files that this version does not know", got=", ".join(unknown))
    return f"signed by key {read.seal.coordinator[:12]}"


def _check_file(folder: Path, read: _Read, name: str) -> str:
    if not (folder / name).is_file():
        raise RunAltered("it is missing")
    if read.seal is None:
        raise NotAtHand("there is no good seal to compare it with")
    if read.seal.contents.files.get(name) != (found := sha256_of(folder / name)):
        raise RunAltered("it is not the file that was sealed", got=f"SHA-256 {found[:12]}")
    return "as it was sealed"


def _check_evidence(folder: Path, read: _Read) -> str:
    data = _data(folder, EVIDENCE)
    try:
        evidence = Evidence.model_validate_json(data)
    except ValueError as error:
        raise RunAltered("it is not what this version writes: upgrade FedHealth, or it was changed") from error
    if evidence_bytes(evidence) != data:
        raise RunAltered("it is not in the form in which it is written")
    if [site.site for site in evidence.sites] != sorted({site.site for site in evidence.sites}):
        raise RunAltered("its sites are not each there once, in order")
    names = {site.site for site in evidence.sites}
    if not set(evidence.unsafe_test_sites) <= names or (
        evidence.simulation and names - set(evidence.unsafe_test_sites)
    ):
        raise RunAltered("it contradicts itself on which sites are test sites")
    read.evidence = evidence
    return f"of {len(evidence.sites)} sites, by {evidence.software}"


def _check_study(folder: Path, read: _Read) -> str:
    signed = open_signed_study(_data(folder, SIGNED_STUDY))
    evidence = _wanted(read.evidence, "the evidence")
    if signed.study.digest != evidence.study.get("digest"):
        raise RunAltered("the evidence is of another study", got=str(evidence.study.get("digest"))[:12])
    if signed.researcher != evidence.researcher:
        raise IdentityInvalid("the evidence names another researcher than the one who signed the study")
    read.signed = signed
    return f"'{signed.study.name}', signed by key {signed.researcher[:12]}"


def _check_rounds(read: _Read) -> str:
    evidence, signed = _wanted(read.evidence, "the evidence"), _wanted(read.signed, "the study")
    study = signed.study
    found = check_rounds(evidence, study.rounds + study.spare_rounds, plan_study(study)["evaluate"].rounds)
    read.bounded = True
    return found


def _check_figures(read: _Read, privacy: bool) -> str:
    evidence, signed = _wanted(read.evidence, "the evidence"), _wanted(read.signed, "the study")
    if not read.bounded:
        raise NotAtHand("its rounds and releases cannot be")
    try:
        for site in evidence.sites:
            if site.noisy_counts:
                encode_counts(signed.study, site.noisy_counts)
        again = evidence_of(signed, result_of(evidence))
    except (KeyError, ValueError) as error:
        raise RunAltered("it has counts that no release of this study's evaluation can have") from error
    wrong = [
        path
        for path in differences(evidence.model_dump(mode="json"), again.model_dump(mode="json"))
        if privacy == any(part in _PRIVACY for part in path)
    ]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise RunAltered(f"{'.'.join(wrong[0])}{more} does not follow from the protocol and the counts")
    if privacy:
        return f"epsilon {max((site.epsilon for site in evidence.sites), default=0.0):.3f} at most, worked out again"
    return "worked out again from the noisy counts, with their intervals"


def _check_model(folder: Path, read: _Read) -> str:
    data, evidence = _data(folder, MODEL), _wanted(read.evidence, "the evidence")
    if hashlib.sha256(data).hexdigest() != evidence.model_sha256:
        raise RunAltered("it is not the model of the evidence")
    study = _wanted(read.signed, "the study").study
    model = read_model(data, study)
    if model.notes != notes_of(study, evidence.rounds_completed):
        raise RunAltered("it says of itself that it is of another study or other rounds")
    read.model = model
    return f"{len(model.weights)} finite weights"


def _check_model_card(folder: Path, read: _Read) -> str:
    data = _data(folder, MODEL_CARD)
    evidence, signed = _wanted(read.evidence, "the evidence"), _wanted(read.signed, "the study")
    if f"fedhealth {fedhealth.__version__}" != evidence.software:
        raise NotAtHand(f"it was written by {evidence.software}: its figures are not compared")
    if render_model_card(evidence, signed.study).encode() != data:
        raise RunAltered("it does not say what the evidence says")
    return "written again from the evidence: the same to the byte"


def _check_report(folder: Path, read: _Read) -> str:
    from fedhealth.coordinator.report import render_report, writer  # loads matplotlib

    data = _data(folder, REPORT)
    evidence, signed = _wanted(read.evidence, "the evidence"), _wanted(read.signed, "the study")
    if hashlib.sha256(evidence_bytes(evidence)).hexdigest().encode() not in data:
        raise RunAltered("it is of another evidence: it does not have the SHA-256 of this one")
    if b'content="' + writer().encode() + b'"' not in data:
        raise NotAtHand(f"it was not written by {writer()}: its figures are not compared")
    if render_report(evidence, signed.study, {}).encode() != data:
        raise RunAltered("it does not say what the evidence says")
    return "rendered again from the evidence: the same to the byte"


def _check_head(site: SiteEvidence) -> str:
    head = open_checkpoint(site.ledger.note, site.site, load_public_key(site.ledger.ledger_key))
    if (head.size, head.root) != (site.ledger.size, site.ledger.root):
        raise RunAltered("its size or root is not what was signed")
    return f"{head.size} entries, signed by key {site.ledger.ledger_key[:12]}"


def _others(folder: Path, ledgers: Federation) -> Iterator[str]:
    known = {*PUBLISHED, SEAL}
    used = {each.path.resolve() for each in ledgers.sites} | {Path(each.name).resolve() for each in ledgers.failed}
    for path in sorted(folder.iterdir()):
        if path.name not in known and path.resolve() not in used:
            yield path.name


def _keys(read: _Read) -> dict[str, str]:
    keys = {}
    if read.seal:
        keys["coordinator"] = read.seal.coordinator
    if read.signed:
        keys["researcher"] = read.signed.researcher
    if read.evidence:
        keys |= {f"ledger of {site.site}": site.ledger.ledger_key for site in read.evidence.sites}
    return keys


def _unsafe(read: _Read, ledgers: Federation) -> tuple[str, ...]:
    said = read.evidence.unsafe_test_sites if read.evidence else ()
    return tuple(sorted({*said, *ledgers.unsafe_test_sites}))


def _wanted(value: _Value | None, name: str) -> _Value:
    if value is None:
        raise NotAtHand(f"{name} cannot be read or trusted")
    return value

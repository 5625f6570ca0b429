"""`fedhealth study submit|list|watch|stop|results`: a researcher and the coordinator that runs studies."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhealth.cli.completion import signed_studies
from fedhealth.cli.output import answer, remark, say, say_lines, say_step, warn

if TYPE_CHECKING:
    from fedhealth.coordinator.research_frames import Happened, Summary

Socket = Annotated[
    Path,
    typer.Option(
        "--coordinator",
        envvar="FEDHEALTH_COORDINATOR",
        help="Its research.sock, in its home or forwarded with ssh -L.",
    ),
]
Named = Annotated[
    str, typer.Argument(metavar="STUDY", help="The first digits of the study's digest.", autocompletion=signed_studies)
]


def submit(
    study: Annotated[Path, typer.Argument(metavar="SIGNED_STUDY", help="What `fedhealth study sign` wrote.")],
    coordinator: Socket,
) -> None:
    """Hand a signed study to the coordinator, which offers it to the sites. Again, it changes nothing.

    Example: fedhealth study submit sepsis.signed --coordinator /srv/heart/research.sock
    """
    from fedhealth.coordinator.research_client import submit_study
    from fedhealth.secret_file import read_file

    _show([submit_study(coordinator, read_file(study))])


def list_all(coordinator: Socket) -> None:
    """List the coordinator's studies: where each stands, who approved it, who did not.

    Example: fedhealth study list --coordinator /srv/heart/research.sock
    """
    from fedhealth.coordinator.research_client import list_studies

    _show(list_studies(coordinator))


def watch(
    study: Named,
    coordinator: Socket,
    after: Annotated[int, typer.Option(help="Leave out events up to this number.")] = 0,
) -> None:
    """Follow a study until it is over: approvals, rounds, who was absent, the end. Ctrl-C only stops following.

    Example: fedhealth study watch 3f9a1c --coordinator /srv/heart/research.sock
    """
    from fedhealth.coordinator.research_client import watch_study
    from fedhealth.coordinator.research_frames import Happened

    for event in watch_study(coordinator, study, after):
        words = _words(event) if isinstance(event, Happened) else f"it is {event.state}"
        say_step(words, event.model_dump(mode="json"))


def stop(
    study: Named,
    coordinator: Socket,
    key: Annotated[
        Path | None, typer.Option(help="The key that signed the study; the coordinator's own user needs none.")
    ] = None,
) -> None:
    """Stop a study for ever, whether it waits or runs. What was charged stays charged.

    Its researcher stops it with the key that signed it; the coordinator's operator, as the coordinator's Unix user,
    stops any, such as one that waits for an approval that will not come.

    Example: fedhealth study stop 3f9a1c --key researcher.key --coordinator /srv/heart/research.sock
    """
    from fedhealth.coordinator.research_client import stop_study
    from fedhealth.signing import load_signing_key

    _show([stop_study(coordinator, study, None if key is None else load_signing_key(key))])


def results(
    study: Named,
    coordinator: Socket,
    out: Annotated[Path | None, typer.Option(help="Folder to fetch them into; only listed if not given.")] = None,
) -> None:
    """List what was published of a study that is done, or fetch it and hold it against the coordinator's seal.

    Example: fedhealth study results 3f9a1c --out results --coordinator /srv/heart/research.sock
    """
    from fedhealth.coordinator.publishing import published_evidence
    from fedhealth.coordinator.research_client import fetch_results, list_results
    from fedhealth.coordinator.wording import partial_words

    if out is None:
        files = list_results(coordinator, study)
        answer(files)
        say_lines(f"{name}  {size:,} bytes" for name, size in files.items())
        return
    fetched = fetch_results(coordinator, study, out)
    answer([str(path) for path in fetched])
    say_lines(map(str, fetched))
    if partial := partial_words(published_evidence(out)):
        warn(partial)
    remark(f"sealed by the coordinator; check it offline: fedhealth audit verify {out}")


def _show(studies: "list[Summary] | tuple[Summary, ...]") -> None:
    answer([study.model_dump(mode="json") for study in studies])
    for study in studies:
        say(f"{study.study[:12]}  {study.name}: {study.state}" + (f" ({study.reason})" if study.reason else ""))
        if study.approved:
            say(f"  approved by {', '.join(study.approved)}")
        for site, code in study.refused.items():
            say(f"  not by {site}: {code}")
        if study.rounds:
            say(f"  {study.rounds} rounds done")
        if study.removed:
            say("  its results were removed at their time")


def _words(event: "Happened") -> str:
    """Return an event as a line for people."""
    body = dict(event.body)
    kind = body.pop("event")
    absent = body.pop("absent", None) or {}
    if kind == "not-approved":
        words = f"not approved by {body['site']} yet ({body['code']})"
    elif kind == "approved":
        words = f"approved by {body['site']}"
    elif kind == "round":
        words = f"round {body['round']} of {body['of']}: {body['sites']} sites, epsilon {body['epsilon']:.2f}"
    else:
        words = " ".join([kind, *(f"{name} {value}" for name, value in sorted(body.items()) if name != "researcher")])
    for site, code in sorted(absent.items()):
        words += f"; without {site} ({code})"
    return f"{datetime.fromtimestamp(event.at / 1000, UTC):%Y-%m-%d %H:%M:%S}  {words}"

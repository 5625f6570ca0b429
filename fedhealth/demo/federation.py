"""Set up a federation in one folder: coordinator, sites, keys, one signed study approved everywhere.

Here one person plays every part. In a hospital each part is somebody's: the coordinator admits a site, a researcher
signs, an administrator of each site pins the researcher's key and approves.
"""

import asyncio
import dataclasses
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedhealth.coordinator.enrolling import EnrolmentDesk, invite_site
from fedhealth.coordinator.home import CoordinatorHome, init_coordinator, install_chain
from fedhealth.errors import ConfigInvalid, FedHealthError
from fedhealth.learning.steps import STEPS
from fedhealth.link.enrolment_port import EnrolmentPort
from fedhealth.pki.identity import IDENTITY_FILE
from fedhealth.pki.invitation import parse_invitation
from fedhealth.pki.profiles import Role
from fedhealth.pki.root import create_root
from fedhealth.policy.site_file import SiteFile, load_site_file
from fedhealth.secret_file import PUBLIC_MODE, create_file, replace_file
from fedhealth.signing import create_signing_key, load_signing_key, public_key_hex
from fedhealth.site.approval import approve_study, examine_study
from fedhealth.site.enrolling import NewSite, enrol_site
from fedhealth.site.state import SiteState
from fedhealth.study.protocol import Study, load_study
from fedhealth.study.signature import sign_study
from fedhealth.training.per_patient import make_deterministic

FEDERATION = "demo"
RESEARCHER = "demo"


@dataclass(frozen=True)
class DemoSite:
    """A site of the demonstration: its folder as its administrator keeps it, what it says, and its state."""

    folder: Path
    file: SiteFile
    state: SiteState


@dataclass(frozen=True)
class Federation:
    """A federation that is ready to run.

    Attributes:
        folder: holds all of it.
        home: the coordinator's state.
        sites: in alphabetical order.
        study: the protocol.
        signed_study: the file with the signed study.
    """

    folder: Path
    home: CoordinatorHome
    sites: tuple[DemoSite, ...]
    study: Study
    signed_study: Path

    @property
    def results(self) -> Path:
        """Where model, evidence and report go."""
        return self.folder / "results"

    @property
    def logs(self) -> Path:
        """Where the processes' logs go."""
        return self.folder / "logs"


def set_up(folder: Path, protocol: Path, sites: Path, unsafe_noise_seed: int | None = None) -> Federation:
    """Make a federation and approve its study at every site.

    Args:
        folder: where to; must not exist.
        protocol: the study protocol.
        sites: a folder with one folder per site.
        unsafe_noise_seed: makes every site a test site with known noise.

    Raises:
        FedHealthError: something of a site or of the protocol is wrong; nothing runs yet.
    """
    study = load_study(protocol)
    folders = sorted(path.parent for path in sites.glob("*/site.toml"))
    if len(folders) < 2:
        raise ConfigInvalid(
            f"there are too few sites in {sites}",
            got=f"{len(folders)} folders with a site.toml",
            wanted="at least 2",
            next_step="Run this where sites/ and protocols/ are, or name them: fedhealth demo --help.",
        )
    loaded = [DemoSite(each, load_site_file(each), SiteState(Path())) for each in folders]
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigInvalid(f"{folder} exists already", next_step="Choose another folder with --out.") from error
    try:
        return _populate(folder, study, loaded, unsafe_noise_seed)
    except FedHealthError:
        shutil.rmtree(folder)  # nothing ran and nothing was charged: the next try may have the same name
        raise


def _populate(folder: Path, study: Study, loaded: Sequence[DemoSite], unsafe_noise_seed: int | None) -> Federation:
    now = datetime.now(UTC)
    home = CoordinatorHome(folder / "state" / "coordinator")
    _found(folder / "state", home, now)
    create_signing_key(folder / "state" / "researcher.key")
    researcher = load_signing_key(folder / "state" / "researcher.key")
    signed = folder / "study.signed"
    create_file(signed, sign_study(study, researcher), PUBLIC_MODE)
    pinned = {RESEARCHER: public_key_hex(researcher.public_key())}
    ready = []
    with open_desk(home) as address:
        for site in loaded:
            state = SiteState(folder / "state" / site.file.id)
            invitation = parse_invitation(invite_site(home, site.file.id, now))
            new = NewSite(pinned, unsafe_noise_seed)
            enrol_site(site.folder, state, dataclasses.replace(invitation, address=address), new, now)
            ready.append(DemoSite(site.folder, site.file, state))
    federation = Federation(folder, home, tuple(ready), study, signed)
    federation.results.mkdir()
    federation.logs.mkdir()
    make_deterministic()
    for site in ready:
        approve_study(site.folder, site.state, examine_study(site.folder, site.state, signed.read_bytes(), STEPS))
    return federation


def _found(state: Path, home: CoordinatorHome, now: datetime) -> None:
    """Hold the ceremony: root, coordinator, certificate of the issuing authority."""
    root = create_root(state / "root", FEDERATION, None, now)
    _, request = init_coordinator(home, FEDERATION, "127.0.0.1:0", "127.0.0.1:0")
    install_chain(home, root.certify_issuer(request.read_bytes(), now), root.pem, now)


@contextmanager
def open_desk(home: CoordinatorHome) -> Iterator[str]:
    """Let sites join at a free port of this machine, whose address is yielded."""
    home.identity(datetime.now(UTC))
    port = EnrolmentPort(home.tls / IDENTITY_FILE[Role.COORDINATOR], EnrolmentDesk(home).answer)
    opened: Future[tuple[int, Callable[[], object]]] = Future()

    async def serve() -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        try:
            number = await port.start("127.0.0.1:0")
        except BaseException as error:
            opened.set_exception(error)
            return
        opened.set_result((number, lambda: loop.call_soon_threadsafe(ended.set)))
        await ended.wait()
        await port.stop()

    # `asyncio.run` cuts whoever is in the midst of joining when Ctrl-C comes; left alone they would say so at the end.
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    number, end = opened.result()
    try:
        yield f"127.0.0.1:{number}"
    finally:
        end()
        thread.join()


def point_node(site: DemoSite, address: str) -> None:
    """Tell a site's node where the coordinator listens."""
    text = f'site = "{site.file.id}"\nfederation = "{FEDERATION}"\ncoordinator = "{address}"\n'
    replace_file(site.state.node / "node.toml", text.encode(), PUBLIC_MODE)

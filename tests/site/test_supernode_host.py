"""What a node does for a SuperNode before it begins, and what it tells the administrator when it cannot."""

import asyncio
import contextlib
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization.ssh import load_ssh_private_key
from live_border import until

from fedhealth.errors import IdentityInvalid, LinkUnavailable
from fedhealth.flower.fab import FAB_SHA256
from fedhealth.flower.fleet_requests import JOIN, JoinAnswer, JoinQuestion
from fedhealth.flower.version import check_flower
from fedhealth.link.services import AskFailed, Failure
from fedhealth.site import supernode_host
from fedhealth.site.loopback_port import free_port, listen_on_loopback
from fedhealth.site.supernode_folder import supernode_folder
from fedhealth.site.supernode_host import SuperNodeHost


class Coordinator:
    """A link that answers a SuperNode's first question as told."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    async def ask(self, service, body, timeout_seconds, longest_answer):
        assert service == JOIN
        self.asked.append(JoinQuestion.model_validate_json(bytes(body)))
        if isinstance(self.answer, Exception):
            raise self.answer
        return JoinAnswer(code=self.answer, flower="1.99.0").model_dump_json().encode()


async def no_gate(_frame):
    raise LinkUnavailable("no gate")


@contextlib.asynccontextmanager
async def hosting(folder, coordinator):
    folder.mkdir(exist_ok=True)
    said, listener = [], listen_on_loopback(0)
    host = SuperNodeHost(supernode_folder(folder), listener, coordinator, no_gate, said.append)
    await host.start()
    host.connected()
    host.port = listener.getsockname()[1]
    try:
        yield host, said
    finally:
        await host.stop()


def test_the_key_is_p384_made_once_and_the_supernode_may_begin_once_it_is_registered(tmp_path):
    coordinator, folder = Coordinator("registered"), supernode_folder(tmp_path / "node")

    async def begin():
        async with hosting(tmp_path / "node", coordinator) as (host, said):
            await until(folder.certificate.exists)
            assert said == ["registered"]
            trusted = ssl.create_default_context(cadata=folder.certificate.read_text())
            _, writer = await asyncio.open_connection("127.0.0.1", host.port, ssl=trusted)
            writer.close()
        assert not folder.certificate.exists()  # what follows it shows another

    asyncio.run(begin())
    key = load_ssh_private_key(folder.key.read_bytes(), None)
    assert isinstance(key.curve, ec.SECP384R1)
    assert [path.stat().st_mode & 0o777 for path in (folder.root, folder.key, folder.secret)] == [0o700, 0o600, 0o600]
    asyncio.run(begin())
    first, second = coordinator.asked
    assert first == second
    assert (first.flower, first.fab, first.public_key) == (check_flower(), FAB_SHA256, folder.public_key())


MESSAGES = {
    "another engine": (AskFailed("the coordinator", JOIN, Failure.NO_SUCH_SERVICE), "other-engine", "engine"),
    "another Flower": ("other-flower", "other-flower", "1.99.0"),
    "another bundle": ("other-fab", "other-fab", "SHA-256"),
    "a key of another site": ("key-refused", "key-refused", "node.key"),
    "not ready": ("not-now", "not-now", "asked again"),
    "away": (LinkUnavailable("cut"), "not-now", "asked again"),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_a_coordinator_that_does_not_fit_is_one_clear_message_however_often_it_is_asked(
    tmp_path, case, monkeypatch, caplog
):
    answer, code, word = MESSAGES[case]
    monkeypatch.setattr(supernode_host, "_JOIN_AGAIN_SECONDS", 0.01)
    coordinator = Coordinator(answer)

    async def work():
        async with hosting(tmp_path / "node", coordinator) as (_, said):
            await until(lambda: len(coordinator.asked) > 3)
            assert said == [code]
            assert not supernode_folder(tmp_path / "node").certificate.exists()
            coordinator.answer = "registered"  # somebody has set it right
            await until(supernode_folder(tmp_path / "node").certificate.exists)
            assert said == [code, "registered"]

    asyncio.run(work())
    lines = [record.getMessage() for record in caplog.records if "no SuperNode" in record.getMessage()]
    assert len(lines) == 1 and word in lines[0]


def test_a_damaged_key_is_named(tmp_path):
    folder = supernode_folder(tmp_path)
    folder.make()
    folder.key.write_text("nothing")
    with pytest.raises(IdentityInvalid, match=r"node\.key"):
        folder.public_key()


def test_a_port_of_the_loopback_that_is_taken_is_named_and_a_free_one_is_free():
    with listen_on_loopback(free_port()) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(LinkUnavailable, match=f"127.0.0.1:{port}"):
            listen_on_loopback(port)


def test_the_certificate_of_the_port_outlives_any_run(tmp_path):
    async def work():
        async with hosting(tmp_path / "node", Coordinator("registered")):
            await until(supernode_folder(tmp_path / "node").certificate.exists)
            from cryptography import x509

            made = x509.load_pem_x509_certificate(supernode_folder(tmp_path / "node").certificate.read_bytes())
            assert made.not_valid_after_utc > datetime.now(UTC) + timedelta(days=365)

    asyncio.run(work())

"""A site as its administrator has it: a folder with two files and a table, and the state made by `init_site`."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.link.frames import Answer, NeedWitness, Witnessed, pack, unpack_reply
from fedhealth.privacy.checkpoint import Receipt, open_checkpoint, sign_receipt
from fedhealth.privacy.verify import verify_ledger
from fedhealth.signing import public_key_hex
from fedhealth.site.approval import approve_study, examine_study
from fedhealth.site.gate_process import open_gate
from fedhealth.site.state import SiteState, init_site
from fedhealth.study.signature import sign_study


class Ward:
    """A site's folder and state, as its administrator has them."""

    def __init__(self, root, text, epsilon=5.0, least=2, researchers='["alice"]', unsafe_noise_seed=None, work=""):
        self.folder, self.state = root / "ward", SiteState(root / "state")
        self.researcher, self.witness = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self.folder.mkdir(parents=True)
        self.csv = self.folder / "patients.csv"
        self.csv.write_text(text)
        (self.folder / "site.toml").write_text(
            'id = "ward-a"\ntitle = "Ward A"\n[data_set]\nname = "ward"\nfile = "patients.csv"\n'
            'patient_column = "id"\ndeclared_patients = 30\n'
        )
        (self.folder / "policy.toml").write_text(
            'tasks = ["diagnosis"]\npurposes = ["scientific-research"]\n'
            f"researchers = {researchers}\nmin_patients_a_side = {least}\n"
            f"max_epsilon_a_study = 2.5\n[budget.ward]\nepsilon = {epsilon}\ndelta = 1e-4\n{work}"
        )
        init_site(
            self.folder,
            self.state,
            public_key_hex(self.witness.public_key()),
            {"alice": public_key_hex(self.researcher.public_key())},
            unsafe_noise_seed,
        )
        self.drawn = {path.stem: path.read_bytes() for path in self.state.gate.glob("*.secret")}
        # A split that is the same in every run, so that both sides have patients enough.
        (self.state.gate / "split.secret").write_bytes(bytes(32))

    def approve(self, study, compute, key=None):
        data = sign_study(study, key or self.researcher)
        proposal = examine_study(self.folder, self.state, data, {"train": compute, "evaluate": compute})
        approve_study(self.folder, self.state, proposal)
        return proposal.approval, proposal.seen

    def open_gate(self, compute):
        return open_gate(self.folder, self.state, {"train": compute, "evaluate": compute})

    def receipt_of(self, ledger, challenge):
        head = open_checkpoint(ledger.head(), "ward-a", self.state.ledger_key().public_key())
        said = Receipt(site="ward-a", size=head.size, root=head.root, challenge=challenge)
        return sign_receipt(said, self.witness)

    def ask(self, gate, ledger, study, step="train", number=1):
        """Ask for a release, countersign where wanted, and return the last reply's header and body."""
        question = pack(Answer(study=study.digest, step=step, round=number), bytes(24))
        header, body = unpack_reply(gate.handle(question).frame)
        while isinstance(header, NeedWitness):
            answer = pack(Witnessed(study=study.digest, receipt=self.receipt_of(ledger, header.challenge)))
            header, body = unpack_reply(gate.handle(answer).frame)
        return header, body

    @property
    def traces(self):
        """What an approval could leave behind."""
        return verify_ledger(self.state.gate).head.size, sorted(self.state.studies.iterdir())

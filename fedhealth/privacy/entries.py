"""What a ledger can say, and the account that its entries add up to.

The account is a pure fold over entries: the live ledger applies an entry before it is written, and the offline
audit applies the same entries again, so both enforce the same rules with the same code. Entries are independent of
patients; what patients cause (alerts, data versions) goes to the local **journal**, and every ledger entry carries
a salted commitment to it, of fixed size, so that sizes and meanings are equal on neighbouring data.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, model_validator

from fedhealth.errors import ApprovalMissing, BudgetExhausted
from fedhealth.privacy.accountant import AnyBudget, AnyCost
from fedhealth.privacy.acts import Act, Acts, LedgerEntry, Milliseconds, misplaced
from fedhealth.privacy.asked_counts import AskedCounts, Asker, Share, Shares
from fedhealth.privacy.currency import Cost, total_of
from fedhealth.privacy.decisions import Decision, Decisions
from fedhealth.privacy.release import Cohort, Digest, Everybody, SiteId, StepName, paying_sides

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
ReplyAfter = dict[StepName, Annotated[int, Field(ge=1, le=86_400_000)]]
"""Public duration from a request to its reply, per step, in milliseconds."""
WitnessPolicy = Literal["required", "best-effort"]
WitnessWait = Annotated[int, Field(ge=1, le=600)]


class Created(LedgerEntry):
    """The first entry: whose ledger this is, which key signs it, what it may ever spend.

    Attributes:
        site: the site.
        ledger_key: raw Ed25519 public key that signs its heads, hexadecimal.
        witness_key: the coordinator's, pinned when the site joined; signs the receipts.
        budgets: cap of each data set, for the life of its data.
        researchers: researchers' public keys that were pinned when the site joined, by name.
        unsafe_test_site: true if fixed noise secrets are allowed; such a site protects nobody.
        simulation: true if there is no such hospital: it was made of some rows of a table, beside others.
        at: Unix time in milliseconds.
    """

    kind: Literal["created"] = "created"
    site: SiteId
    ledger_key: Digest
    witness_key: Digest
    budgets: dict[Name, AnyBudget]
    researchers: dict[Name, Digest] = Field(default_factory=dict)
    unsafe_test_site: bool
    simulation: bool = False
    at: Milliseconds

    @model_validator(mode="after")
    def _simulation_protects_nobody(self) -> Self:
        if self.simulation and not self.unsafe_test_site:
            raise ValueError("a simulated site has known noise: unsafe_test_site must be true")
        return self


class Approved(LedgerEntry):
    """A named administrator allowed a study; its envelope is set aside from then on.

    Attributes:
        study: digest of the signed study.
        researcher: public key that signed it.
        data_set: which budget pays.
        sides: which patients stand on which side of the data set, as a commitment; the same in every approval of a
            data set, because each side has the whole budget only as long as nobody changes sides. None for a study
            whose every release is charged to both sides alike.
        declared_patients: public round number used for scaling.
        reply_after_ms: public duration from a request to its reply, per step.
        envelope: the most the study may ever cost each side of the data set.
        counts_of_an_asker: how many new counts each asker may cause in a quarter; None where the study counts nothing.
        counts_of_a_hospital: how many all askers of one hospital may cause in a quarter together; None for any number.
        delta: the delta at which this study's epsilon is stated.
        by: the local user who approved.
        at: Unix time in milliseconds.
    """

    kind: Literal["approved"] = "approved"
    study: Digest
    researcher: Digest
    data_set: Name
    sides: Digest | None
    declared_patients: Annotated[int, Field(ge=1, le=10**9)]
    reply_after_ms: ReplyAfter
    envelope: dict[Cohort, AnyCost]
    counts_of_an_asker: Share | None = None
    counts_of_a_hospital: Annotated[Share | None, Field(exclude_if=lambda share: share is None)] = None
    delta: float
    by: str
    at: Milliseconds

    @property
    def shares(self) -> Shares:
        """What askers may cause in a quarter."""
        return Shares(self.counts_of_an_asker, self.counts_of_a_hospital)

    @model_validator(mode="after")
    def _without_sides_both_pay_alike(self) -> Self:
        costs = [self.envelope.get(side) for side in paying_sides("everybody")]
        if self.sides is None and (costs[0] is None or costs[0] != costs[1]):
            raise ValueError("a study that knows no sides must be charged to both alike")
        return self


class Withdrawn(LedgerEntry):
    """An administrator withdrew a study; what it had not spent is free again."""

    kind: Literal["withdrawn"] = "withdrawn"
    study: Digest
    by: str
    at: Milliseconds


class Reserved(LedgerEntry):
    """A release was charged; written before any noise is drawn. It stays spent whatever happens next.

    Attributes:
        release: its name.
        study: of the approved study.
        step: of the study.
        round: of the step.
        cohort: the patients it is computed on, who all pay.
        cost: what each of them pays.
        asker: of a count, who was the first to ask for it.
        at: Unix time in milliseconds.
    """

    kind: Literal["reserved"] = "reserved"
    release: Digest
    study: Digest
    step: StepName
    round: Annotated[int, Field(ge=1, le=2**31)]
    cohort: Cohort | Everybody
    cost: AnyCost
    asker: Asker | None = None
    at: Milliseconds

    @model_validator(mode="after")
    def _a_count_is_everybodys_and_somebody_asks(self) -> Self:
        if (self.step == "count") != (self.cohort == "everybody") or (self.step == "count") != (self.asker is not None):
            raise ValueError("counts, and nothing else, are of everybody and have an asker")
        return self


class Stored(LedgerEntry):
    """The payload of a charged release is durable and may leave."""

    kind: Literal["stored"] = "stored"
    release: Digest
    payload_sha256: Digest
    payload_bytes: Annotated[int, Field(ge=0, le=2**53 - 1)]


class WitnessRule(LedgerEntry):
    """From here on releases leave under this witness policy; before the first such entry it is "required".

    Attributes:
        witness: whether a release may leave without the coordinator's signature on the head that holds its charge.
        wait_seconds: how long it is waited for.
        at: Unix time in milliseconds.
    """

    kind: Literal["witness-rule"] = "witness-rule"
    witness: WitnessPolicy
    wait_seconds: WitnessWait
    at: Milliseconds


class Unwitnessed(LedgerEntry):
    """The wait for the coordinator's signature passed, and the policy lets a charged release go without it."""

    kind: Literal["unwitnessed"] = "unwitnessed"
    release: Digest
    at: Milliseconds


class GivenUp(BaseModel):
    """A head that a ledger once had, where nobody has its last entries any more; nothing that left was charged there.

    Attributes:
        size: entries under it.
        root: its root.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    size: Annotated[int, Field(ge=1, le=2**53 - 1)]
    root: Digest


class Recovered(LedgerEntry):
    """An administrator put entries back that this ledger had lost, as the coordinator gave them back.

    They stand before this one. Their commitments to the local journal cannot be opened any more, and neither can it
    be known whether a release that was charged and not stored under them has left; none of those is ever computed.

    Attributes:
        first: position of the first of them; that of this entry where none was lost.
        given_up: the later head that this ledger once had, if not all of its entries came back.
        by: the local user who confirmed.
        at: Unix time in milliseconds.
    """

    kind: Literal["recovered"] = "recovered"
    first: Annotated[int, Field(ge=1, le=2**53 - 1)]
    given_up: GivenUp | None
    by: str
    at: Milliseconds


Entry = Created | Approved | Withdrawn | Reserved | Stored | WitnessRule | Unwitnessed | Recovered | Decision | Act
ENTRY = TypeAdapter[Entry](Annotated[Entry, Field(discriminator="kind")])


class Account:
    """The state that a ledger's entries add up to; `apply` checks everything, then changes state."""

    def __init__(self) -> None:
        self.created: Created | None = None
        self.entries = 0
        self.approved: dict[Digest, Approved] = {}
        self.withdrawn: set[Digest] = set()
        self.decisions = Decisions()
        self.reserved: dict[Digest, Reserved] = {}
        self.stored: dict[Digest, Stored] = {}
        self.witness: WitnessPolicy = "required"
        self.witness_wait: int | None = None
        self.unwitnessed: set[Digest] = set()
        self._acts: Acts | None = None
        self.recovered: list[Recovered] = []
        self.closed: set[Digest] = set()
        self.given_back = 0
        self.asked = AskedCounts()
        self._spent: dict[tuple[Digest, Cohort], Cost] = {}
        self._releases: dict[tuple[Digest, StepName], int] = {}

    @property
    def acts(self) -> Acts:
        """What people's acts add up to: the policy, pauses, the ledger key."""
        if self._acts is None:
            raise misplaced("a ledger begins with the entry that creates it")
        return self._acts

    def spent(self, study: Digest, cohort: Cohort) -> Cost | None:
        """Return what a study was charged on one side; None if nothing."""
        return self._spent.get((study, cohort))

    def releases(self, study: Digest, step: StepName) -> int:
        """Return how many releases of a step a study was charged for."""
        return self._releases.get((study, step), 0)

    def committed(self, data_set: Name, cohort: Cohort) -> Cost | None:
        """Return what is spent or set aside on one side of a data set; None if nothing."""
        held = (
            self.spent(study, cohort) if study in self.withdrawn else approval.envelope.get(cohort)
            for study, approval in self.approved.items()
            if approval.data_set == data_set
        )
        return total_of(each for each in held if each is not None)

    def apply(self, entry: Entry) -> None:
        """Take one more entry into the account.

        Raises:
            ApprovalMissing: a study splits the data set's patients otherwise than the studies before it.
            BudgetExhausted: an envelope does not fit the data set's budget, or a charge does not fit its envelope.
            LedgerDamaged: the entry cannot follow the entries before it.
        """
        if isinstance(entry, Created) != (self.created is None):
            raise misplaced("a ledger has exactly one first entry, which creates it")
        if isinstance(entry, Created):
            self.created, self._acts = entry, Acts(entry.site, entry.ledger_key, entry.researchers)
        elif isinstance(entry, Approved):
            self._approve(entry)
        elif isinstance(entry, Withdrawn):
            if entry.study not in self.approved or entry.study in self.withdrawn:
                raise misplaced(f"study {entry.study[:12]} is not approved and cannot be withdrawn")
            self.withdrawn.add(entry.study)
        elif isinstance(entry, Decision):
            self.decisions.apply(entry, self.approved)
        elif isinstance(entry, Act):
            self.acts.apply(entry, self.entries)
        elif isinstance(entry, Reserved):
            self._reserve(entry)
        elif isinstance(entry, WitnessRule):
            self.witness, self.witness_wait = entry.witness, entry.wait_seconds
        elif isinstance(entry, Unwitnessed):
            ended = (self.stored, self.unwitnessed, self.closed)
            if entry.release not in self.reserved or any(entry.release in each for each in ended):
                raise misplaced(f"release {entry.release[:12]} leaves without witness but was not reserved just once")
            if self.witness != "best-effort":
                raise misplaced(f"release {entry.release[:12]} leaves without the witness that the policy requires")
            self.unwitnessed.add(entry.release)
        elif isinstance(entry, Recovered):
            if entry.first > self.entries:
                raise misplaced("entries are said to be recovered that do not stand before it")
            self.recovered.append(entry)
            self.given_back += self.entries - entry.first
            self.closed |= self.reserved.keys() - self.stored.keys()
        else:
            if entry.release not in self.reserved or entry.release in self.stored or entry.release in self.closed:
                raise misplaced(f"release {entry.release[:12]} is stored but was not reserved just once")
            self.stored[entry.release] = entry
        self.entries += 1

    def check_approval(self, entry: Approved) -> None:
        """Return if a study can be approved so.

        Raises:
            ApprovalMissing, BudgetExhausted, LedgerDamaged: as `apply`.
        """
        assert self.created is not None  # noqa: S101 - `apply` checked it
        if entry.study in self.approved:
            raise misplaced(f"study {entry.study[:12]} is approved twice")
        self.decisions.check_approval(entry.study, entry.by)
        budget = self.created.budgets.get(entry.data_set)
        if budget is None:
            raise misplaced(f"data set '{entry.data_set}' has no budget")
        others = (other.sides for other in self.approved.values() if other.data_set == entry.data_set)
        if entry.sides is not None and any(sides not in (None, entry.sides) for sides in others):
            raise ApprovalMissing(
                f"study {entry.study[:12]} splits the patients of data set '{entry.data_set}' otherwise than before",
                got="another held-out fraction, split key, patient column or split column",
                wanted="those of the first study that was approved for these data",
                next_step="A patient who changed sides would pay both budgets. Ask the researcher for the same "
                "held_out_fraction, and leave split_key, patient_column and split_column in site.toml as they were.",
            )
        cap = budget.cap()
        for cohort, envelope in entry.envelope.items():
            if envelope.currency != cap.currency:
                raise misplaced(f"the envelope of study {entry.study[:12]} is not counted in the budget's currency")
            held = self.committed(entry.data_set, cohort)
            if not envelope.fits(cap, held):
                left = 1.0 - (budget.share(held) if held else 0.0)
                raise BudgetExhausted(
                    f"study {entry.study[:12]} does not fit the privacy budget of data set '{entry.data_set}'",
                    got=f"a cost of {budget.share(envelope):.1%} of the budget on the {cohort} patients",
                    wanted=f"at most the {left:.1%} that is left (budget: epsilon {budget.epsilon}, "
                    f"delta {budget.delta}, for the life of the data)",
                    next_step="Lower the study's epsilon, or ask the data-protection officer.",
                )

    def _approve(self, entry: Approved) -> None:
        self.check_approval(entry)
        self.approved[entry.study] = entry
        self.decisions.settle(entry.study)

    def _reserve(self, entry: Reserved) -> None:
        approval = self.approved.get(entry.study)
        if approval is None or entry.study in self.withdrawn:
            raise misplaced(f"release {entry.release[:12]} is charged to a study that is not approved")
        if entry.release in self.reserved:
            raise misplaced(f"release {entry.release[:12]} is charged twice")
        if (approval.sides is None) != (entry.cohort == "everybody"):
            raise misplaced(f"release {entry.release[:12]} is of patients that its study does not know")
        for side in paying_sides(entry.cohort):
            self._check_charge(entry, approval, side)
        if entry.asker is not None:
            self.asked.check(entry.study, entry.asker, approval.shares)
        self.reserved[entry.release] = entry
        for side in paying_sides(entry.cohort):
            before = self.spent(entry.study, side)
            self._spent[entry.study, side] = entry.cost if before is None else before + entry.cost
        key = (entry.study, entry.step)
        self._releases[key] = self._releases.get(key, 0) + 1
        if entry.asker is not None:
            self.asked.add(entry.study, entry.asker)

    def _check_charge(self, entry: Reserved, approval: Approved, side: Cohort) -> None:
        envelope = approval.envelope.get(side)
        if envelope is not None and entry.cost.currency != envelope.currency:
            raise misplaced(f"release {entry.release[:12]} is charged in another currency than its study's envelope")
        if envelope is None or not entry.cost.fits(envelope, self.spent(entry.study, side)):
            raise BudgetExhausted(
                f"study {entry.study[:12]} has spent its envelope on the {side} patients",
                next_step="Nothing more leaves for this study; a new study needs a new approval.",
            )

"""Any order of charges, answers, retries and changes leaves a key's budget as plain arithmetic says.

Two services share the store, as server processes do. Replies are lost on the way, after the store has obeyed. Refills
need the store's clock to move on, and are tested in test_budgets.py.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.backoff import NoBackoff

from keys.budget_store import Ask
from keys.embedded import EmbeddedStore
from keys.errors import (
    ChangeRefused,
    IdempotencyInProgress,
    IdempotencyMismatch,
    InvalidCredential,
    KeyServiceError,
    QuotaExceeded,
    StoreUnavailable,
)
from keys.records import Act, Admission, Budget, BudgetGrant, Idempotency, KeyGrant, KeyPatch
from keys.service import KeyService
from tests.keys.conftest import embedded, hurried
from tests.keys.links import Link
from tests.keys.services import Line, admitted, ledger_of, service_on

T = TypeVar("T")
MODEL = "tiny"
COUNTS = st.sampled_from([1, 2, 5])
LIMITS = st.sampled_from([None, 0, 3, 10])
NAMES = st.sampled_from([None, "one", "two"])
KEYS = 2
SERVICES = st.integers(0, 1)
RARELY = st.sampled_from([False, False, False, True])
STATES = st.sampled_from(["active", "active", "active", "disabled"])
CHANGES = st.one_of(
    st.tuples(st.just("top_up"), st.integers(1, 6)),
    st.tuples(st.just("set_limit"), LIMITS),
    st.tuples(st.just("rotate"), st.sampled_from([0, 3600])),
    st.tuples(st.just("switch"), STATES),
)
OLDER = st.sampled_from([1, 1, 1, 2, 3])  # which API key is shown, counted from the newest


@dataclass
class Plain:
    """A key in plain arithmetic: `used` of a limit, what is left of grants, and who may use it."""

    id: str
    limit: int | None
    issued: list[str]
    good: set[str]
    state: str = "active"
    used: int = 0
    granted: int = 0
    named: dict[str, "Request"] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    ledger: list[Line] = field(default_factory=list)

    @property
    def budget(self) -> Budget:
        """As its holder sees it."""
        remaining = None if self.limit is None else max(0, self.limit - self.used) + self.granted
        return Budget(limit=self.limit, remaining=remaining, granted=self.granted)

    def charge(self, count: int) -> tuple[int, int] | None:
        """What is taken of the limit and of the grants, None if it is not covered."""
        allowance = count if self.limit is None else min(count, max(0, self.limit - self.used))
        if count - allowance > self.granted:
            return None
        self._take("charge", allowance, count - allowance)
        return allowance, count - allowance

    def give_back(self, taken: tuple[int, int]) -> None:
        """The opposite of `charge`."""
        self._take("release", -taken[0], -taken[1])

    def _take(self, kind: str, allowance: int, grants: int) -> None:
        self.used, self.granted = self.used + allowance, self.granted - grants
        self.write(kind, allowance + grants)

    def write(self, kind: str, count: int) -> None:
        """A line of the ledger."""
        self.ledger.append((kind, count, self.used, self.granted))


@dataclass(eq=False)
class Request:
    """One that was admitted: what it has taken, and how far it is."""

    key: Plain
    admission: Admission
    taken: tuple[int, int]
    state: Literal["running", "done", "released"] = "running"


class Budgets(RuleBasedStateMachine):
    """The services on one side, `Plain` on the other."""

    keys, requests = Bundle("keys"), Bundle("requests")
    operations = 0

    def __init__(self, socket: Path) -> None:
        super().__init__()
        self._runner, self._stack, self._plain = asyncio.Runner(), AsyncExitStack(), list[Plain]()
        self.link, self.services = self.run(self._open(socket))

    async def _open(self, socket: Path) -> tuple[Link, list[KeyService]]:
        link = await self._stack.enter_async_context(Link(socket))
        url = f"redis://127.0.0.1:{link.port}"
        return link, [await self._stack.enter_async_context(service_on(url)) for _ in range(2)]

    def run(self, coroutine: Awaitable[T], *, lost: bool = False) -> T:
        """What the coroutine gives; the reply to its first script is `lost`."""

        async def awaited() -> T:
            with self.link.losing_the_reply_to("EVALSHA") if lost else nullcontext():
                return await coroutine

        return self._runner.run(awaited())

    def outcome(self, coroutine: Awaitable[T], *, lost: bool = False) -> T | type[KeyServiceError]:
        """The same, or the class of the refusal."""
        try:
            return self.run(coroutine, lost=lost)
        except KeyServiceError as refusal:
            return type(refusal)

    def check(self, key: Plain) -> None:
        """The services see, in turns, the budget that arithmetic says."""
        Budgets.operations += 1
        assert self.run(self.services[Budgets.operations % 2].directory.show(key.id)).budget == key.budget

    # Requests

    @rule(target=requests, key=keys, service=SERVICES, count=COUNTS, name=NAMES, older=OLDER, lost=RARELY)
    def ask(self, *, key: Plain, service: int, count: int, name: str | None, older: int, lost: bool) -> object:
        credential = key.issued[max(-older, -len(key.issued))]
        idempotency = None if name is None else Idempotency(name, f"{count:x}")
        got = self.outcome(
            admitted(self.services[service], credential, Ask(count, count, MODEL, idempotency)), lost=lost
        )
        expected = self._expected(key, credential, count, name)
        if isinstance(expected, tuple):
            assert isinstance(got, Admission), got
            assert (got.charge, got.budget, got.replayed) == (count, key.budget, False)
            request = Request(key, got, expected)
            if name is not None:
                key.named[name] = request
        elif expected == "replayed":
            assert isinstance(got, Admission), got
            assert (got.charge, got.budget, got.replayed) == (0, key.budget, True)
            self.run(self.services[service].settle(got))
        else:
            assert got is expected
        self.check(key)
        return request if isinstance(expected, tuple) else multiple()

    def _expected(
        self, key: Plain, credential: str, count: int, name: str | None
    ) -> tuple[int, int] | Literal["replayed"] | type[KeyServiceError]:
        before = None if name is None else key.named.get(name)
        if key.state != "active" or credential not in key.good:
            return InvalidCredential
        if before is not None and before.state != "released":
            if before.admission.charge != count:
                return IdempotencyMismatch
            return "replayed" if before.state == "done" else IdempotencyInProgress
        return key.charge(count) or QuotaExceeded

    @rule(request=requests, service=SERVICES, lost=RARELY, again=RARELY)
    def settle(self, request: Request, service: int, lost: bool, again: bool) -> None:
        if request.state == "done":
            return
        for _ in range(1 + again):
            got = self.outcome(self.services[service].settle(request.admission), lost=lost)
            assert got is (None if request.state != "released" else StoreUnavailable)
        if request.state == "running":
            request.state = "done"
            request.key.outcomes["served"] += request.admission.images
        self.check(request.key)

    @rule(request=requests, service=SERVICES, lost=RARELY, again=RARELY)
    def release(self, request: Request, service: int, lost: bool, again: bool) -> None:
        for _ in range(1 + again):
            self.run(self.services[service].release(request.admission), lost=lost)
        if request.state == "running":
            request.state = "released"
            request.key.give_back(request.taken)
            request.key.outcomes["failed"] += request.admission.images
        self.check(request.key)

    more = ask  # requests are what this is about

    # Changes

    @rule(key=keys, change=CHANGES, service=SERVICES, lost=RARELY, again=RARELY)
    def change(self, *, key: Plain, change: tuple[str, Any], service: int, lost: bool, again: bool) -> None:
        name, value = change
        getattr(self, f"_{name}")(key, value, service, lost, again)
        self.check(key)

    @precondition(lambda self: sum(key.state != "revoked" for key in self._plain) < KEYS)
    @rule(target=keys, limit=LIMITS, service=SERVICES, lost=RARELY, again=RARELY)
    def create(self, limit: int | None, service: int, lost: bool, again: bool) -> Plain:
        grant = KeyGrant(name="partner", scopes=frozenset({"distill"}), budget=BudgetGrant(limit=limit))
        issued = self._same(lambda service, act: service.lifecycle.create(grant, act), service, lost, again)
        assert not isinstance(issued, type)
        key = Plain(issued.record.id, limit, [issued.api_key], {issued.api_key})
        self._plain.append(key)
        self.check(key)
        return key

    def _top_up(self, key: Plain, answers: int, service: int, lost: bool, again: bool) -> None:
        got = self._same(lambda service, act: service.lifecycle.top_up(key.id, answers, act), service, lost, again)
        if key.state == "revoked" or key.limit is None:
            assert got is ChangeRefused
        else:
            key.granted += answers
            key.write("top-up", answers)

    def _set_limit(self, key: Plain, limit: int | None, service: int, lost: bool, again: bool) -> None:
        patch = KeyPatch(budget=BudgetGrant(limit=limit))
        got = self._same(lambda service, act: service.lifecycle.update(key.id, patch, act), service, lost, again)
        if key.state == "revoked":
            assert got is ChangeRefused
        else:
            key.limit = limit
            key.write("limit", 0)

    def _rotate(self, key: Plain, overlap_s: int, service: int, lost: bool, again: bool) -> None:
        got = self._same(lambda service, act: service.lifecycle.rotate(key.id, overlap_s, act), service, lost, again)
        if isinstance(got, type):
            assert (got, key.state) == (ChangeRefused, "revoked")
        else:
            key.issued.append(got.api_key)
            key.good = {got.api_key} | (key.good if overlap_s else set())

    def _switch(self, key: Plain, to: str, service: int, lost: bool, again: bool) -> None:
        change = "enable" if to == "active" else "disable"
        got = self._same(lambda service, act: getattr(service.lifecycle, change)(key.id, act), service, lost, again)
        if key.state == "revoked":
            assert got is ChangeRefused
        else:
            key.state = to

    @rule(target=keys, key=consumes(keys), service=SERVICES, lost=RARELY, really=RARELY, forgotten=st.booleans())
    def revoke(self, *, key: Plain, service: int, lost: bool, really: bool, forgotten: bool) -> object:
        if really:
            got = self._same(lambda service, act: service.lifecycle.revoke(key.id, act), service, lost, again=True)
            assert not isinstance(got, type)
            key.state = "revoked"
            self.check(key)
        return multiple() if really and forgotten else key

    def _same(
        self, change: Callable[[KeyService, Act], Awaitable[T]], service: int, lost: bool, again: bool
    ) -> T | type[KeyServiceError]:
        """What the change gives; made `again` by the other service, under the same name, it gives the same."""
        act = Act("cli", idempotency_key=uuid4().hex)  # of this story alone: the store is that of all of them
        got = self.outcome(change(self.services[service], act), lost=lost)
        if again:
            assert self.outcome(change(self.services[1 - service], act)) == got
        return got

    def teardown(self) -> None:
        """The ledger and the usage tell the same as the counters, and the audit log is whole."""
        try:
            for key in self._plain:
                self.check(key)
                self.run(self._agrees(key))
            assert self.run(self.services[0].audit.verify()).intact
        finally:
            self.run(self._stack.aclose())
            self._runner.close()

    async def _agrees(self, key: Plain) -> None:
        assert await ledger_of(self.services[0], key.id) == key.ledger
        told = Counter[str]()
        for bucket in await self.services[0].directory.usage(key.id, "day"):
            told[bucket.outcome] += bucket.images
        assert (told["served"], told["failed"]) == (key.outcomes["served"], key.outcomes["failed"])


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store of all stories; who loses a reply asks again at once, for they are about what is asked, not when."""
    folder = tmp_path_factory.mktemp("properties")
    with hurried(embedded(folder)), pytest.MonkeyPatch.context() as impatient:
        impatient.setattr("keys.connection.ExponentialBackoff", lambda **_: NoBackoff())
        yield Path(EmbeddedStore(folder).socket)


def play(socket: Path, examples: int, steps: int) -> int:
    """How many operations were played in `examples` stories of `steps` steps each."""

    class Here(Budgets):
        def __init__(self) -> None:
            super().__init__(socket)

    Budgets.operations = 0
    patient = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Here, settings=patient)
    return Budgets.operations


def test_any_order_of_requests_and_changes_leaves_what_arithmetic_says(socket: Path) -> None:
    assert play(socket, examples=10, steps=40) >= 150


@pytest.mark.slow
def test_ten_thousand_operations_leave_what_arithmetic_says(socket: Path) -> None:
    assert play(socket, examples=220, steps=60) >= 10_000

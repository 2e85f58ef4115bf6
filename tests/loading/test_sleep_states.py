"""Any order of sleeping, waking, failing, allocating and freeing."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from symmoe.errors import EngineError
from symmoe.loading.sleep import SleepingWeights

from .fake_memory import FakeMemory

TAGS = st.sampled_from(["weights", "weights", "kv_cache", "other"])


class Sleeping(RuleBasedStateMachine):
    """The engine, and what its memory should hold."""

    @initialize(sizes=st.lists(st.integers(0, 64), min_size=1, max_size=4))
    def start(self, sizes: list[int]) -> None:
        self.memory = FakeMemory()
        self.sleeping = SleepingWeights(self.memory, {})
        self.broken = False
        for address, size in enumerate(sizes):
            self.memory.allocate(address, "weights", size)
        self.memory.allocate(100, "kv_cache", 32)

    @precondition(lambda self: not self.broken)
    @rule(address=st.integers(0, 8), tag=TAGS, size=st.integers(0, 64))
    def allocate_where_nothing_is_or_something_was(self, address: int, tag: str, size: int) -> None:
        if address not in self.memory.blocks or not self.memory.blocks[address].is_asleep:
            self.memory.allocate(address, tag, size)

    @rule(level=st.sampled_from([1, 1, 1, 2]))
    def sleep(self, level: int) -> None:
        awake = [block for block in self.memory.blocks.values() if not block.is_asleep]
        try:
            self.sleeping.suspend(level)
        except EngineError:
            self._note_failure()
        for block in awake:
            if block.tag != "weights" or (level == 2 and block.is_asleep):
                block.content = None
                block.changes += 1
        if not self.broken:
            assert self.sleeping.state == "SUSPENDED" or not any(b.is_asleep for b in self.memory.blocks.values())

    @rule(tags=st.sampled_from([None, ["weights"], ["kv_cache"], ["weights", "kv_cache", "other"]]))
    def wake(self, tags: list[str] | None) -> None:
        asleep = [block for block in self.memory.blocks.values() if block.is_asleep]
        try:
            self.sleeping.resume(tags)
        except EngineError:
            self._note_failure()
            if not self.broken:
                assert all(block.is_asleep for block in asleep), "a failed wake left some awake"
        else:
            assert not any(b.is_asleep for b in self.memory.blocks.values() if tags is None or b.tag in tags)

    @precondition(lambda self: not self.broken and self.sleeping.state == "RUNNING")
    @rule()
    def change_the_weights(self) -> None:
        for address, block in self.memory.blocks.items():
            block.content = self.memory.numbers.randbytes(block.handle[1])
            block.changes += 1
            self.memory.device[address] = block.content
        self.sleeping.forget()

    @rule(operation=st.sampled_from(["map", "unmap", "copy_out", "copy_in", "wait"]), after=st.integers(0, 3))
    def let_something_fail_soon(self, operation: str, after: int) -> None:
        self.memory.fails = {operation: after}

    @invariant()
    def what_is_awake_holds_what_it_should(self) -> None:
        if self.broken:
            return
        assert not self.memory.under_way, "it returned before its copies were done"
        for address, block in self.memory.blocks.items():
            assert block.is_asleep == (address not in self.memory.device)
            if not block.is_asleep and block.content is not None:
                assert self.memory.device[address] == block.content

    @invariant()
    def unchanged_weights_are_copied_out_at_most_once_and_nothing_else_ever(self) -> None:
        for block in self.memory.blocks.values():
            assert block.copied_out <= (1 + block.changes if block.tag == "weights" else 0)

    @invariant()
    def the_engine_runs_only_when_nothing_sleeps(self) -> None:
        asleep = any(block.is_asleep for block in self.memory.blocks.values())
        assert self.sleeping.state == ("SUSPENDED" if asleep or self.broken else "RUNNING")

    def _note_failure(self) -> None:
        """After a failure it either goes on, or refuses everything for good."""
        self.memory.fails = {}
        try:
            self.sleeping.resume([])
        except EngineError as error:
            assert "no known state" in str(error)  # noqa: PT017
            self.broken = True


TestSleeping = Sleeping.TestCase
TestSleeping.settings = settings(max_examples=80, stateful_step_count=25)

"""Tests as conversations: an event in, the instructions expected, a mismatch shown as a diff of the talk so far."""

from __future__ import annotations

import difflib
from dataclasses import replace

from agent.core import events
from agent.core.attempts import Ref, Work
from agent.core.instructions import Instruction, SendHeartbeat, SendProgress
from agent.core.node import Node
from agent.core.terms import Terms

ENGINES = (("warp", "1"),)
REF = Ref("job", 1)
WORK = Work(REF, slot=0, engine="warp")


class Playbook:
    """One conversation. Heartbeats and progress are left out unless `told` is used."""

    def __init__(self, terms: Terms | None = None) -> None:
        self.node = Node(terms or Terms())
        self.now = 1000.0
        self._wanted: list[str] = []
        self._got: list[str] = []

    def after(self, seconds: float) -> Playbook:
        """Let time pass; the next event tells."""
        self.now += seconds
        return self

    def told(self, event: events.Event) -> list[Instruction]:
        """Everything that an event leads to."""
        return self.node.handle(event, self.now)

    def on(self, event: events.Event, *wanted: Instruction) -> Playbook:
        """Say something and check what is to be done."""
        head = f"{self.now:g} s  {event}"
        got = [one for one in self.told(event) if not isinstance(one, SendHeartbeat | SendProgress)]
        self._wanted += [head, *(f"    -> {one}" for one in wanted)]
        self._got += [head, *(f"    -> {one}" for one in got)]
        assert got == list(wanted), "\n" + "\n".join(difflib.ndiff(self._wanted, self._got))
        return self

    def quiet(self, seconds: float) -> Playbook:
        """Nothing is to be done for so long, while the worker gives signs of life."""
        return self.after(seconds).on(events.Ticked())


def ready(terms: Terms | None = None) -> Playbook:
    """A conversation with a session that stands and every worker ready."""
    book = Playbook(terms)
    book.told(events.Ticked())
    book.told(events.Welcomed(5.0))
    for slot in range((terms or Terms()).slots):
        book.told(events.WorkerLoaded(slot, 1, ENGINES))
        book.told(events.WorkerProbed(slot, 1, 2.0))
    return book


def rendering(terms: Terms | None = None, work: Work = WORK) -> Playbook:
    """A conversation in which `work` is being rendered."""
    book = ready(terms)
    book.told(events.Assigned(work))
    book.told(events.InputsReady(work.ref))
    return book


def stored(book: Playbook) -> Playbook:
    """The render of REF is finished and its result safe."""
    book.told(events.WorkerRendered(0, 1, str(REF), b"report"))
    book.told(events.ResultStored(REF))
    return book


def elsewhere(slot: int, attempt: int = 1) -> Work:
    """Work of another job."""
    return replace(WORK, ref=Ref(f"job-{slot}", attempt), slot=slot)

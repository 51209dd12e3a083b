"""All decisions of an agent: events in, instructions out.

Every event is handled in two steps. First whoever it concerns takes it: the session, a slot, or the deliveries. Then
`_due` asks everyone what is to be done by now, in this order:

1. leave, if leaving and nothing is left to wait for;
2. end the faults of a game day whose time is up;
3. call the hub, if no session stands;
4. start, or end, workers;
5. upload and report results, and the states of what runs, if a session stands;
6. give a sign of life, if it is time or a slot has changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from agent.core import events
from agent.core.attempts import Failure, Fault, Ref, Stopped, Work
from agent.core.deliveries import Deliveries
from agent.core.game_day import GameDay, GameDayFault
from agent.core.instructions import (
    BeginFault,
    Connect,
    EndFault,
    Exit,
    Instruction,
    SendDraining,
    SendHeartbeat,
    SendProbed,
    SendProgress,
    SendStarted,
    SlotState,
    SlotView,
)
from agent.core.sessions import Session
from agent.core.slots import Slot
from agent.core.terms import Terms


class Node:
    """The decisions of one agent."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self.session = Session(terms)
        self.deliveries = Deliveries(terms)
        self._slots = [Slot(index, terms, self.deliveries) for index in range(terms.slots)]
        self._game_day = GameDay()
        self._hub_drains = False
        self._drain_until_s: float | None = None  # set when leaving
        self._idle_since_s: float | None = None  # leaving, and nothing runs any more
        self._exited = False

    @property
    def slots(self) -> tuple[SlotView, ...]:
        return tuple(slot.view for slot in self._slots)

    @property
    def running(self) -> tuple[Ref, ...]:
        return tuple(slot.attempt.work.ref for slot in self._slots if slot.attempt)

    @property
    def leaving(self) -> bool:
        return self._drain_until_s is not None

    @property
    def model_version(self) -> str:
        """Of the first engine that is loaded; empty while none is."""
        return next((version for slot in self._slots for _, version in slot.engines), "")

    @property
    def networks(self) -> frozenset[tuple[str, str]]:
        """The networks that workers have opened, each with its provider."""
        return frozenset(network for slot in self._slots for network in slot.networks)

    def handle(self, event: events.Event, now: float) -> list[Instruction]:
        """What to do about an event. `now` is in seconds and never goes back."""
        if self._exited:
            return []
        wanted = [*self._take(event, now), *self._due(now)]
        if self.session.up:
            return wanted
        return [one for one in wanted if not isinstance(one, SendProgress | SendStarted | SendProbed)]

    def _take(self, event: events.Event, now: float) -> list[Instruction]:
        match event:
            case events.Ticked():
                return []
            case events.StoodStill(seconds):
                for one in self._slots:
                    one.stood_still(seconds)
                return []
            case events.Kept(ref, has_video):
                self.deliveries.keep(ref, has_video)
                return []
            case events.StopRequested():
                return self._leave(now)
            case events.Welcomed():
                return self._welcomed(event, now)
            case events.SessionEnded(detail, jitter):
                self.session.ended(detail, jitter, now)
                self.deliveries.cut()
                return []
            case events.Assigned(work):
                return self._assigned(work)
            case events.CancelRequested(ref):
                return self._cancelled(ref, now)
            case events.ProbeWished(probe_id, slot):
                return self._probe_wished(probe_id, slot, now)
            case events.FaultWished(fault, seconds):
                return self._fault_wished(fault, seconds, now)
            case events.DrainWished(drain):
                self._hub_drains = drain
                return []
            case events.Acknowledged(ref, verdict):
                return self.deliveries.acknowledged(ref, verdict, now)
            case events.ResultStored(ref):
                return self.deliveries.stored(ref)
            case events.StoringFailed(ref, detail):
                return self.deliveries.storing_failed(ref, detail)
            case events.VideoUploaded(ref) | events.VideoUnwanted(ref):
                return self.deliveries.uploaded(ref)
            case events.UploadFailed(ref, refused, detail):
                return self.deliveries.upload_failed(ref, refused, detail, now)
            case events.CheckpointSent(ref):
                for one in self._slots:
                    one.checkpoint_sent(ref, now)
                return []
            case events.InputsReady(ref):
                return [one for slot in self._slots for one in slot.inputs_ready(ref, now)]
            case events.InputsFailed(ref, failure):
                return [one for slot in self._slots for one in slot.inputs_failed(ref, failure)]
            case _:
                return self._slots[event.slot].hear(event, now)

    def _welcomed(self, event: events.Welcomed, now: float) -> list[Instruction]:
        self.session.welcomed(event.heartbeat_interval_s, event.lease_s, event.takes_checkpoints, now)
        self._hub_drains = False  # a drain that still holds is said again
        started = [slot.attempt.work.ref for slot in self._slots if slot.attempt and slot.attempt.rendering]
        return [SendStarted(ref) for ref in started]

    def _probe_wished(self, probe_id: str, slot: int, now: float) -> list[Instruction]:
        why_not = "the agent is stopping" if self.leaving else self._no_slot(slot)
        if why_not:
            return [SendProbed(probe_id, slot, Failure(Fault.DECLINED, "DECLINED", why_not))]
        return self._slots[slot].probe(probe_id, now)

    def _assigned(self, work: Work) -> list[Instruction]:
        if work.ref in self.deliveries or work.ref in self.running:
            return []
        why_not = self._why_not(work)
        if why_not:
            return self.deliveries.add(work.ref, Failure(Fault.DECLINED, "DECLINED", why_not))
        return self._slots[work.slot].take(work)

    def _why_not(self, work: Work) -> str:
        if self.leaving:
            return "the agent is stopping"
        if self._hub_drains:
            return "the node is drained"
        return self._no_slot(work.slot) or self._slots[work.slot].why_not(work)

    def _no_slot(self, index: int) -> str:
        if 0 <= index < len(self._slots):
            return ""
        return f"there is no slot {index}; the node has {len(self._slots)}, counted from 0"

    def _cancelled(self, ref: Ref, now: float) -> list[Instruction]:
        for slot in self._slots:
            if slot.attempt and slot.attempt.work.ref == ref:
                return slot.stop(Stopped(), now)
        if ref in self.deliveries:
            return self.deliveries.cancel(ref)
        return self.deliveries.add(ref, Stopped())

    def _fault_wished(self, fault: GameDayFault, seconds: float, now: float) -> list[Instruction]:
        if not self._terms.plays_faults:
            return []
        if seconds <= 0:
            return self._end_fault(fault)
        self._game_day.begin(fault, seconds, now)
        self.session.heartbeat_soon()
        return [BeginFault(fault, seconds)]

    def _end_fault(self, fault: GameDayFault) -> list[Instruction]:
        self.session.heartbeat_soon()
        return [EndFault(fault)] if self._game_day.end(fault) else []

    def _leave(self, now: float) -> list[Instruction]:
        again = self.leaving
        self._drain_until_s = now if again else now + self._terms.drain_timeout_s
        return [SendDraining("the agent is stopping")] if self.session.up and not again else []

    def _due(self, now: float) -> Iterator[Instruction]:
        if self._drain_until_s is not None and now >= self._drain_until_s:
            yield from self._hand_back(now)
        if self._may_exit(now):
            self._exited = True
            yield Exit()
            return
        for fault in self._game_day.over(now):
            yield from self._end_fault(fault)
        if not self._game_day.cut and self.session.connect_due(now):
            yield Connect(self._told, self.running, self.deliveries.refs, self.leaving)
        for slot in self._slots:
            yield from slot.due(now, restart=not self.leaving)
        if self.session.up:
            yield from self.deliveries.due(now)
            if self.session.takes_checkpoints:
                for slot in self._slots:
                    yield from slot.checkpoint_due(now)
        if self.session.heartbeat_due(self._told, now):
            yield SendHeartbeat(self._told, (*self.running, *self.deliveries.refs), self._game_day.left(now))

    def _hand_back(self, now: float) -> Iterator[Instruction]:
        for slot in self._slots:
            yield from slot.stop(Failure(Fault.DECLINED, "DECLINED", "the agent stopped before the end"), now)

    def _may_exit(self, now: float) -> bool:
        """Nothing runs, and the results have left or have been waited for; what stays is sent by the next life."""
        if self._drain_until_s is None or self.running:
            return False
        if self._idle_since_s is None:
            self._idle_since_s = now
        patience = self._idle_since_s + self._terms.flush_timeout_s
        if self.session.up:
            patience = max(patience, self._drain_until_s)
        return not self.deliveries or now >= patience

    @property
    def _told(self) -> tuple[SlotView, ...]:
        """The slots as the hub is to see them: none of them is offered by an agent that leaves."""
        if not self.leaving:
            return self.slots
        busy = SlotState.BUSY
        return tuple(
            view if view.state is busy else replace(view, state=SlotState.BACKOFF, detail="the agent is stopping")
            for view in self.slots
        )

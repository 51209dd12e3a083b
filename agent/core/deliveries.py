"""Results on their way to the hub: stored, the video uploaded, reported, acknowledged. There is no other way out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.core.attempts import Failure, Fault, Outcome, Progress, Ref, Rendered, Stopped
from agent.core.events import Verdict
from agent.core.instructions import ForgetResult, Instruction, SendProgress, SendResult, StoreResult, UploadVideo
from agent.core.terms import Terms

UPLOADING_FROM = 0.95  # share of an attempt that is done when its upload begins


@dataclass
class Delivery:
    """One result on its way."""

    ref: Ref
    has_video: bool
    stored: bool = False
    uploading: bool = False
    uploaded: bool = False
    tries: int = 0
    refusals: int = 0
    not_before_s: float = 0.0
    sent_at_s: float | None = None  # in the session that stands


class Deliveries:
    """All results that the hub has not acknowledged."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._by_ref: dict[Ref, Delivery] = {}

    def __len__(self) -> int:
        return len(self._by_ref)

    def __contains__(self, ref: Ref) -> bool:
        return ref in self._by_ref

    @property
    def refs(self) -> tuple[Ref, ...]:
        return tuple(self._by_ref)

    def keep(self, ref: Ref, has_video: bool) -> None:
        """A result that an earlier life of the agent has stored."""
        self._by_ref[ref] = Delivery(ref, has_video, stored=True)

    def add(self, ref: Ref, outcome: Outcome) -> list[Instruction]:
        """A new result, or another one in place of what is held."""
        self._by_ref[ref] = Delivery(ref, has_video=isinstance(outcome, Rendered))
        return [StoreResult(ref, outcome)]

    def stored(self, ref: Ref) -> list[Instruction]:
        if delivery := self._by_ref.get(ref):
            delivery.stored = True
        return []

    def storing_failed(self, ref: Ref, detail: str) -> list[Instruction]:
        """A video that is not safe on disk is no result; a failure is reported from memory."""
        delivery = self._by_ref.get(ref)
        if delivery is None:
            return []
        if delivery.has_video:
            message = f"the node could not keep the video: {detail}"
            return self.add(ref, Failure(Fault.TRANSFER, "RESULT_NOT_KEPT", message))
        delivery.stored = True
        return []

    def uploaded(self, ref: Ref) -> list[Instruction]:
        """Or not to be uploaded any more: the report is next."""
        if delivery := self._by_ref.get(ref):
            delivery.uploading, delivery.uploaded = False, True
        return []

    def upload_failed(self, ref: Ref, refused: bool, detail: str, now: float) -> list[Instruction]:
        delivery = self._by_ref.get(ref)
        if delivery is None or not delivery.uploading:
            return []
        delivery.uploading = False
        delivery.refusals += refused
        if delivery.refusals >= self._terms.upload_refusals:
            return self.add(ref, Failure(Fault.TRANSFER, "UPLOAD_REFUSED", f"the hub refused the video: {detail}"))
        self._wait(delivery, now)
        return []

    def acknowledged(self, ref: Ref, verdict: Verdict, now: float) -> list[Instruction]:
        delivery = self._by_ref.get(ref)
        if delivery is None or not delivery.stored:
            return []
        if verdict is Verdict.VIDEO_MISSING and delivery.has_video:
            delivery.uploaded, delivery.sent_at_s = False, None
            self._wait(delivery, now)
            return []
        del self._by_ref[ref]
        return [ForgetResult(ref)]

    def cancel(self, ref: Ref) -> list[Instruction]:
        """The hub wants no video any more: one that is still to be uploaded is not worth the line."""
        delivery = self._by_ref[ref]
        if delivery.stored and delivery.has_video and not delivery.uploaded:
            return self.add(ref, Stopped())
        return []

    def cut(self) -> None:
        """The session has ended: whatever it carried counts as not sent."""
        for delivery in self._by_ref.values():
            delivery.sent_at_s = None

    def due(self, now: float) -> Iterator[Instruction]:
        """What can be done for the results while a session stands."""
        for delivery in self._by_ref.values():
            if not delivery.stored:
                continue
            if delivery.has_video and not delivery.uploaded:
                if not delivery.uploading and now >= delivery.not_before_s:
                    delivery.uploading = True
                    yield SendProgress(delivery.ref, Progress("uploading", fraction=UPLOADING_FROM))
                    yield UploadVideo(delivery.ref)
            elif delivery.sent_at_s is None or now - delivery.sent_at_s >= self._terms.resend_s:
                delivery.sent_at_s = now
                yield SendResult(delivery.ref)

    def _wait(self, delivery: Delivery, now: float) -> None:
        delivery.tries += 1
        delivery.not_before_s = now + self._terms.upload.delay_s(delivery.tries)

"""The text of a join token: what a box needs to find out that the hub is the right one, and to be let in."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# By this name a box calls any hub when it enrols; which hub is the right one, the token says. So a hub can show it the
# certificate of its own authority, even if callers are shown somebody else's.
HUB_NAME = "enrolment.sonic-fleet.internal"
_TEXT = re.compile(r"sonic-join-1\.([0-9a-f]{64})\.([0-9a-f]{12,32})\.([0-9a-f]{64})")


@dataclass(frozen=True)
class JoinToken:
    """`fingerprint` is the SHA-256 of the DER of the hub's authority; all three are hex."""

    fingerprint: str
    token_id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        return f"sonic-join-1.{self.fingerprint}.{self.token_id}.{self.secret}"

    @staticmethod
    def of(text: str) -> JoinToken:
        """Raises ValueError."""
        if not (parts := _TEXT.fullmatch(text.strip())):
            raise ValueError("a line as `sonic hub token create` prints it is wanted, sonic-join-1.….….…")
        return JoinToken(*parts.groups())

"""API keys as text: sonic_<key id>_<secret>. The id is no secret and is shown; of the secret only its hash is kept."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field

ID_CHARACTERS = 12
ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_KEY = re.compile(rf"sonic_([{ID_ALPHABET}]{{{ID_CHARACTERS}}})_([A-Za-z0-9_-]{{43}})")
BEGINNING = "sonic_"


@dataclass(frozen=True)
class ApiKey:
    """A key as somebody presents it. The secret is 256 bits of chance, so one round of SHA-256 keeps it."""

    key_id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """The whole key."""
        return f"{BEGINNING}{self.key_id}_{self.secret}"

    @property
    def digest(self) -> str:
        """What is stored in its place."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def matches(self, digest: str) -> bool:
        """Whether it is the key of which that is stored; how long it takes tells nothing."""
        return hmac.compare_digest(self.digest, digest)


def parse(text: str) -> ApiKey | None:
    """None for what is no key."""
    found = _KEY.fullmatch(text)
    return ApiKey(*found.groups()) if found else None

"""Join tokens and enrolled nodes. What spends a token is one conditional update, whichever hub is asked."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hub.store.database import insert_ignoring
from hub.store.schema import enrolments, join_tokens, nodes

_STANDING: sa.Select[Any] = sa.select(
    enrolments.c.node_id, enrolments.c.region, enrolments.c.token_id, enrolments.c.revoked_at_s
)
_NAMED_AT_MOST = 500
KEPT_S = 30 * 86_400.0  # tokens are listed for so long after they have ended


@dataclass(frozen=True)
class NewToken:
    """A token to be stored; node_id is empty when it is for any new node. Times are seconds since the epoch."""

    token_id: str
    secret: str
    region: str
    node_id: str
    uses: int
    expires_at_s: float


@dataclass(frozen=True)
class Wish:
    """Who asks to join, with which token and which key."""

    token_id: str
    secret: str
    node_id: str
    region: str
    key_sha256: str


def add_token(connection: sa.Connection, new: NewToken, now_s: float) -> sa.Row[Any]:
    """Store a token, its secret as a hash: it is random and long, so that no slow hash is needed."""
    connection.execute(sa.delete(join_tokens).where(join_tokens.c.expires_at_s < now_s - KEPT_S))
    values = {
        "token_id": new.token_id,
        "secret_sha256": _sha256(new.secret),
        "region": new.region,
        "node_id": new.node_id,
        "uses_left": new.uses,
        "created_at_s": now_s,
        "expires_at_s": new.expires_at_s,
    }
    connection.execute(sa.insert(join_tokens).values(**values))
    return connection.execute(sa.select(join_tokens).where(join_tokens.c.token_id == new.token_id)).one()


def tokens(connection: sa.Connection) -> list[sa.Row[Any]]:
    """All that are stored, the newest first."""
    return list(connection.execute(sa.select(join_tokens).order_by(join_tokens.c.created_at_s.desc())))


def end_token(connection: sa.Connection, token_id: str, now_s: float) -> bool:
    """Whether there is such a token."""
    when = sa.func.coalesce(join_tokens.c.revoked_at_s, now_s)
    ended = sa.update(join_tokens).where(join_tokens.c.token_id == token_id).values(revoked_at_s=when)
    return connection.execute(ended).rowcount == 1


def enrol(connection: sa.Connection, wish: Wish, now_s: float) -> str:
    """Enrol a node and use the token once. The answer is why not, empty when it is enrolled."""
    token = connection.execute(sa.select(join_tokens).where(join_tokens.c.token_id == wish.token_id)).one_or_none()
    if token is None or not hmac.compare_digest(token.secret_sha256, _sha256(wish.secret)):
        return "the join token is none of this hub's"
    if token.revoked_at_s is not None:
        return "the join token was revoked"
    if now_s >= token.expires_at_s:
        return "the join token has expired"
    if token.region != wish.region:
        return f"the join token is for region {token.region!r}, and the box says that it is in {wish.region[:64]!r}"
    if token.node_id not in ("", wish.node_id):
        return f"the join token is for node {token.node_id!r}, and the box says that it is {wish.node_id[:64]!r}"
    known = connection.execute(sa.select(enrolments).where(enrolments.c.node_id == wish.node_id)).one_or_none()
    if known and known.revoked_at_s is not None:
        return f"node {wish.node_id!r} was revoked; if that is over, run: sonic nodes revoke --undo {wish.node_id}"
    if known and (known.token_id, known.key_sha256) == (wish.token_id, wish.key_sha256):
        return ""  # the answer to the first request was lost
    if known and not token.node_id:
        return (
            f"node {wish.node_id!r} is enrolled; give this box another node_id, or if it is the same box, make a token "
            f"for it: sonic hub token create --region {wish.region} --node {wish.node_id}"
        )
    spent = sa.update(join_tokens).where(join_tokens.c.token_id == wish.token_id, join_tokens.c.uses_left > 0)
    if connection.execute(spent.values(uses_left=join_tokens.c.uses_left - 1)).rowcount != 1:
        return "the join token is used up"
    values = {
        "region": wish.region,
        "token_id": wish.token_id,
        "key_sha256": wish.key_sha256,
        "enrolled_at_s": now_s,
    }
    if known:
        same = (enrolments.c.node_id == wish.node_id, enrolments.c.revoked_at_s.is_(None))
        connection.execute(sa.update(enrolments).where(*same).values(**values))
        return ""
    if connection.execute(
        insert_ignoring(connection.engine, enrolments).values(node_id=wish.node_id, **values)
    ).rowcount:
        return ""
    return f"node {wish.node_id!r} was enrolled a moment ago"


def set_revoked(connection: sa.Connection, node_id: str, at_s: float | None) -> bool:
    """Take a node's right to be one, None gives it back. Whether there is such a node."""
    known = sa.select(nodes.c.region).where(nodes.c.node_id == node_id)
    changed = sa.update(enrolments).where(enrolments.c.node_id == node_id).values(revoked_at_s=at_s)
    if connection.execute(changed).rowcount:
        return True
    region = connection.execute(known).scalar()
    if region is None:
        return False
    unknown = {"region": region, "token_id": "", "key_sha256": "", "enrolled_at_s": 0.0, "revoked_at_s": at_s}
    connection.execute(insert_ignoring(connection.engine, enrolments).values(node_id=node_id, **unknown))
    return True


@dataclass(frozen=True)
class Objection:
    """Why a certificate gives no right to be a node."""

    why: str
    anew: bool  # the node was enrolled since, with another key


def objection(connection: sa.Connection, node_id: str, joined: str) -> Objection | None:
    """What speaks against a certificate that goes back to the enrolment `joined`."""
    found = connection.execute(_STANDING.where(enrolments.c.node_id == node_id)).one_or_none()
    return _objection(found, joined) if found else None


def objections(connection: sa.Connection, joined: Mapping[str, str]) -> dict[str, Objection]:
    """`objection` by node, for those of the nodes that have one; `joined` has the enrolment of each."""
    if not joined:
        return {}
    few = len(joined) <= _NAMED_AT_MOST  # of many, all rows are read: a statement names no more
    query = _STANDING.where(enrolments.c.node_id.in_(joined)) if few else _STANDING
    rows = [row for row in connection.execute(query) if row.node_id in joined]
    return {row.node_id: found for row in rows if (found := _objection(row, joined[row.node_id]))}


def _objection(found: sa.Row[Any], joined: str) -> Objection | None:
    node_id = found.node_id[:64]
    if found.revoked_at_s is not None:
        revoked = f"node {node_id!r} was revoked; if that is over, run: sonic nodes revoke --undo {node_id}"
        return Objection(revoked, anew=False)
    if joined and found.token_id not in ("", joined):
        void = (
            f"node {node_id!r} was enrolled anew; this certificate is that of the box before: if this is the right "
            f"box, give it a join token: sonic hub token create --region {found.region} --node {node_id}"
        )
        return Objection(void, anew=True)
    return None


def revoked(connection: sa.Connection) -> set[str]:
    """The nodes whose right to be one was taken."""
    query = sa.select(enrolments.c.node_id).where(enrolments.c.revoked_at_s.is_not(None))
    return set(connection.execute(query).scalars())


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()

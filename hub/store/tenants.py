"""Tenants and API keys in SQL. Times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hub.core.roles import Role
from hub.store.database import insert_ignoring
from hub.store.schema import api_keys, tenants


@dataclass(frozen=True)
class NewKey:
    """A key to be stored; the fields are columns of `schema.api_keys`."""

    key_id: str
    digest: str
    role: Role
    tenant: str | None
    holder: str
    expires_at_s: float | None


@dataclass(frozen=True)
class Standing:
    """A key, or None when there is no such key; and whether its tenant may call."""

    key: sa.Row[Any] | None
    suspended: bool = False


def create(connection: sa.Connection, tenant: str, now_s: float) -> bool:
    """False when the name is taken."""
    values = {"tenant": tenant, "created_at_s": now_s}
    return bool(connection.execute(insert_ignoring(connection.engine, tenants), values).rowcount)


def find(connection: sa.Connection, names: Collection[str]) -> dict[str, sa.Row[Any]]:
    """Those of the tenants that exist, by name."""
    query = sa.select(tenants).where(tenants.c.tenant.in_(names))
    return {row.tenant: row for row in connection.execute(query)}


def all_of(connection: sa.Connection) -> list[sa.Row[Any]]:
    """Every tenant, by name."""
    return list(connection.execute(sa.select(tenants).order_by(tenants.c.tenant)))


def set_suspended(connection: sa.Connection, tenant: str, at_s: float | None) -> None:
    """Suspend a tenant that is not, or take it back with None."""
    changed = tenants.c.suspended_at_s.is_not(None) if at_s is None else tenants.c.suspended_at_s.is_(None)
    connection.execute(sa.update(tenants).where(tenants.c.tenant == tenant, changed).values(suspended_at_s=at_s))


def add_key(connection: sa.Connection, new: NewKey, now_s: float) -> None:
    values = {**vars(new), "created_at_s": now_s}
    connection.execute(sa.insert(api_keys).values(values))


def keys(connection: sa.Connection) -> list[sa.Row[Any]]:
    """Every key, the newest first."""
    return list(connection.execute(sa.select(api_keys).order_by(api_keys.c.created_at_s.desc(), api_keys.c.key_id)))


def standings(connection: sa.Connection, key_ids: Collection[str]) -> dict[str, Standing]:
    """Those of the keys that exist, by id."""
    joined = api_keys.outerjoin(tenants, tenants.c.tenant == api_keys.c.tenant)
    query = sa.select(api_keys, tenants.c.suspended_at_s).select_from(joined).where(api_keys.c.key_id.in_(key_ids))
    return {row.key_id: Standing(row, row.suspended_at_s is not None) for row in connection.execute(query)}


def end_keys(connection: sa.Connection, tenant: str, at_s: float) -> None:
    """Let the keys that a tenant has end at a time, unless they end sooner."""
    later = sa.or_(api_keys.c.expires_at_s.is_(None), api_keys.c.expires_at_s > at_s)
    connection.execute(sa.update(api_keys).where(api_keys.c.tenant == tenant, later).values(expires_at_s=at_s))


def revoke_key(connection: sa.Connection, key_id: str, now_s: float) -> None:
    """End a key for good; one that has been revoked already stays as it is."""
    where = (api_keys.c.key_id == key_id, api_keys.c.revoked_at_s.is_(None))
    connection.execute(sa.update(api_keys).where(*where).values(revoked_at_s=now_s))


def operators_keys(connection: sa.Connection, now_s: float) -> set[str]:
    """The ids of those operators' keys that hold; nobody else changes them before the transaction has ended."""
    query = (
        sa.select(api_keys.c.key_id)
        .where(
            api_keys.c.role == Role.OPERATOR,
            api_keys.c.revoked_at_s.is_(None),
            sa.or_(api_keys.c.expires_at_s.is_(None), api_keys.c.expires_at_s > now_s),
        )
        .order_by(api_keys.c.key_id)
        .with_for_update()
    )
    return set(connection.execute(query).scalars())


def note_use(connection: sa.Connection, used_at_s: Mapping[str, float]) -> None:
    """When keys were used last."""
    for key_id, at_s in sorted(used_at_s.items()):
        connection.execute(sa.update(api_keys).where(api_keys.c.key_id == key_id).values(last_used_at_s=at_s))

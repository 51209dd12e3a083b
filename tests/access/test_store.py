"""Tenants and keys on either database, and hubs that share one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import sqlalchemy as sa

from hub.core.roles import Role
from hub.server import credentials
from hub.service import serving
from hub.store import tenants
from hub.store.database import changing, migrate, open_database
from tests.hub.conftest import config, database_url
from tests.hub.test_versions import write_as_before

from .conftest import KeyHolder, channel_to, refused
from .test_keys import listing

__all__ = ["database_url"]


@pytest.fixture
def database(database_url: str) -> Iterator[sa.Engine]:
    engine = open_database(database_url)
    yield engine
    engine.dispose()


def test_whoever_has_jobs_is_a_tenant_after_the_migration(database_url: str) -> None:
    old = sa.create_engine(database_url)
    migrate(old, "0003")
    write_as_before(old, "a", "n1")
    database = open_database(database_url)
    with database.connect() as connection:
        assert [(row.tenant, row.created_at_s) for row in tenants.all_of(connection)] == [("acme", 1.0)]
    for engine in (old, database):
        engine.dispose()


def test_keys_end_and_are_revoked_once(database: sa.Engine) -> None:
    with database.begin() as connection:
        assert tenants.create(connection, "acme", 1.0)
        assert not tenants.create(connection, "acme", 2.0)
        for number, expires_at_s in enumerate((None, 50.0, 500.0)):
            new = tenants.NewKey(f"k{number}", "digest", Role.TENANT, "acme", "x", expires_at_s)
            tenants.add_key(connection, new, float(number))
        tenants.end_keys(connection, "acme", 100.0)
        assert [row.expires_at_s for row in tenants.keys(connection)] == [100.0, 50.0, 100.0]
        tenants.revoke_key(connection, "k0", 7.0)
        tenants.revoke_key(connection, "k0", 8.0)
        tenants.set_suspended(connection, "acme", 3.0)
        tenants.set_suspended(connection, "acme", 4.0)
        tenants.note_use(connection, {"k1": 9.0, "gone": 9.0})
        found = tenants.standings(connection, ["k0", "k1", "nothing"])
        assert set(found) == {"k0", "k1"}
        assert found["k0"].key is not None
        assert found["k1"].key is not None
        assert (found["k0"].key.revoked_at_s, found["k1"].key.last_used_at_s) == (7.0, 9.0)
        assert found["k0"].suspended
        (row,) = tenants.all_of(connection)
        assert row.suspended_at_s == 3.0
        tenants.set_suspended(connection, "acme", None)
        assert not tenants.standings(connection, ["k0"])["k0"].suspended


def test_only_operators_keys_that_hold_keep_the_first_one_away(database: sa.Engine) -> None:
    now = time.time()
    with database.begin() as connection:
        tenants.create(connection, "acme", now)
        for name, role, tenant, expires_at_s in (
            ("tenant", Role.TENANT, "acme", None),
            ("reader", Role.READER, None, None),
            ("over", Role.OPERATOR, None, now - 1),
            ("live", Role.OPERATOR, None, now + 60),
        ):
            tenants.add_key(connection, tenants.NewKey(name, "digest", role, tenant, "x", expires_at_s), now)
        assert tenants.operators_keys(connection, now) == {"live"}
        tenants.revoke_key(connection, "live", now)
        assert tenants.operators_keys(connection, now) == set()


def test_two_operators_who_revoke_each_other_at_once_are_not_both_gone(database: sa.Engine) -> None:
    def revoke(key_id: str) -> bool:
        with changing(database) as connection:
            if tenants.operators_keys(connection, 1.0) == {key_id}:
                return False
            time.sleep(0.05)  # long enough for the other one to look, too
            tenants.revoke_key(connection, key_id, 1.0)
            return True

    with database.begin() as connection:
        for key_id in ("ann", "bob"):
            tenants.add_key(connection, tenants.NewKey(key_id, "digest", Role.OPERATOR, None, key_id, None), 0.0)
    with ThreadPoolExecutor() as both:
        assert sorted(both.map(revoke, ("ann", "bob"))) == [False, True]
    with database.begin() as connection:
        assert len(tenants.operators_keys(connection, 1.0)) == 1


async def test_what_one_hub_is_told_the_others_hold_to_soon(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("cluster").database()
    about = {"database_url": url, "insecure": False, "artifacts_url": f"file://{tmp_path}/files"}
    (tmp_path / "files").mkdir()
    async with (
        serving(config(tmp_path / "a", hub_id="a", **about)) as one,
        serving(config(tmp_path / "b", hub_id="b", **about)) as two,
        channel_to(one, tmp_path / "a") as here,
        channel_to(two, tmp_path / "b") as there,
    ):
        assert not (tmp_path / "b" / "operator.key").exists()
        operator = KeyHolder(here, (tmp_path / "a" / "operator.key").read_text().strip())
        key = (await operator.create_tenant("acme")).secret_text
        acme = KeyHolder(there, key)
        await listing(acme)
        await operator.suspend("acme")
        await asyncio.sleep(credentials.BELIEVED_S + 0.1)
        assert (await refused(listing(acme))).code() is grpc.StatusCode.PERMISSION_DENIED
        await operator.resume("acme")
        await listing(acme)

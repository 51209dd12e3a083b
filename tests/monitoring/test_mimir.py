"""The settings for Mimir agree with each other, with the hub's and with the agent's."""

from __future__ import annotations

import re
from typing import Any

import yaml

from agent.config import AgentConfig
from hub.core.tenants import tenant_problem
from hub.forward.config import ForwardConfig
from tests.monitoring.promtool import RULES

FOLDER = RULES.parent / "mimir"
MIMIR: dict[str, Any] = yaml.safe_load((FOLDER / "mimir.yml").read_text())
OVERRIDES: dict[str, Any] = yaml.safe_load((FOLDER / "overrides.yml").read_text())["overrides"]


def _hours(duration: str) -> float:
    found = re.fullmatch(r"(\d+)([mhdy])", duration)
    assert found, duration
    return int(found[1]) * {"m": 1 / 60, "h": 1, "d": 24, "y": 365 * 24}[found[2]]


def test_what_agents_and_hubs_keep_is_taken() -> None:
    window = _hours(MIMIR["limits"]["out_of_order_time_window"])
    assert AgentConfig().metric_spool_max_age_s <= window * 3600
    assert ForwardConfig().spool_max_age_s <= window * 3600


def test_a_late_sample_is_found_as_soon_as_it_is_taken() -> None:
    """Blocks are made every two hours; until then only the ingester has it."""
    limits, blocks = MIMIR["limits"], MIMIR["blocks_storage"]
    within, after = _hours(limits["query_ingesters_within"]), _hours(MIMIR["querier"]["query_store_after"])
    assert within >= _hours(limits["out_of_order_time_window"]) + 2
    assert _hours(blocks["bucket_store"]["ignore_blocks_within"]) < after < within
    assert within < _hours(blocks["tsdb"]["retention_period"])
    assert within <= _hours(blocks["tsdb"]["close_idle_tsdb_timeout"])


def test_a_year_is_kept() -> None:
    for limits in (MIMIR["limits"], *OVERRIDES.values()):
        assert _hours(limits.get("compactor_blocks_retention_period", "1y")) >= 365 * 24


def test_every_tenant_takes_the_largest_request_of_a_hub() -> None:
    for limits in (MIMIR["limits"], *OVERRIDES.values()):
        assert limits["ingestion_burst_size"] >= ForwardConfig().max_samples


def test_limits_are_given_to_tenants_that_there_can_be() -> None:
    assert ForwardConfig().operator_tenant in OVERRIDES
    assert not [tenant for tenant in OVERRIDES if tenant_problem(tenant)]


def test_nothing_calls_home_and_no_notification_is_lost() -> None:
    assert MIMIR["usage_stats"]["enabled"] is False
    assert "replication_factor" not in MIMIR["alertmanager"]["sharding_ring"]
    assert MIMIR["multitenancy_enabled"] is True

"""`sonic gameday` against a real hub with a simulated node."""

from __future__ import annotations

from hub.testing import NodeProfile, running_fleet


async def test_a_fault_is_played_listed_and_ended(acme, hub) -> None:
    async with running_fleet(hub, [NodeProfile("box")]) as fleet:
        ended = await acme("gameday", "slow", "--node", "box", "--for", "90s")
        assert (ended.code, ended.out) == (0, "")
        assert "box plays slow for 1 min 30 s" in ended.err
        assert len(fleet["box"].plays) == 1
        assert "plays slow for 1 min" in (await acme("nodes", "list")).out
        shown = await acme("nodes", "show", "box")
        assert "game days  allowed" in shown.out
        assert (await acme("gameday", "slow", "--node", "box", "--end")).code == 0
        assert not fleet["box"].plays


async def test_what_cannot_be_played_says_why(acme, hub) -> None:
    async with running_fleet(hub, [NodeProfile("box", plays_faults=False)]):
        refused = await acme("gameday", "heat", "--node", "box")
        assert refused.code == 6
        assert "--plays-faults" in refused.err
        assert (await acme("gameday", "heat", "--node", "nobody")).code == 5
        assert (await acme("gameday", "heat", "--node", "box", "--for", "5d")).code == 2

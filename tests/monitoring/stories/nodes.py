"""Nodes that are cut off, restarted, left behind."""

from __future__ import annotations

from .case import DAY, EU, HOUR, NODE_A, A, B, Case, growing


def nodes_up(hub: str = "0x200", **by_node: str) -> dict[str, str]:
    nodes = {f'sonic_hub_node_up{{region="eu",node_id="{node}"}}': values for node, values in by_node.items()}
    return {'sonic_hub_store_failures_total{hub="h1"}': hub, **nodes}


CASES = (
    Case("one node of three is cut off", "NodeDown", nodes_up(a="1x30 0x30", b="1x60", c="1x60"), (40,), (NODE_A,)),
    Case(
        "a node is cut off while the hub is away for half an hour",
        "NodeDown",
        nodes_up(hub="0x30 stale _x30 0x60", a="1x30 stale _x30 0x60", b="1x30 stale _x30 1x60"),
        (75,),
        (NODE_A,),
    ),
    Case(
        "a node reboots, another leaves, and the hub that is restarted shows those that have left",
        "NodeDown",
        nodes_up(
            hub="0x60 stale _x2 0x60",
            a="1x20 0x3 1x36 stale _x2 0 1x60",
            b="1x20 stale _x42 0x60",
            c="1x58 stale _x4 0x60",
        ),
        range(120),
    ),
    Case(
        "all of a region are cut off",
        "RegionDown",
        nodes_up(a="1x30 0x30", b="1x30 0x30", c="1x60"),
        (40,),
        (EU,),
    ),
    Case(
        "one of three is away, and the hub is restarted",
        "RegionDown",
        nodes_up(hub="0x30 _x1 0x60", a="1x30 0x60", b="1x30 _x1 0 1x30", c="1x30 _x1 0 1x30"),
        range(60),
    ),
    Case(
        "a region is stopped for good, and the hub is restarted",
        "RegionDown",
        nodes_up(hub="0x60 stale _x2 0x60", a="1x50 stale _x12 0x60", b="1x20 stale _x42 0x60"),
        range(120),
    ),
    Case(
        "a worker dies every ten minutes",
        "WorkerRestarts",
        {
            f"sonic_node_request_total{{{A}}}": growing(1, 120),
            f'sonic_worker_restarts_total{{{A},reason="crashed"}}': "_x70 1x10 2x10 3x50",
        },
        (100,),
        (NODE_A,),
    ),
    Case(
        "one crash, and an agent whose count starts again",
        "WorkerRestarts",
        {
            f"sonic_node_request_total{{{A}}}": growing(1, 120),
            f'sonic_worker_restarts_total{{{A},reason="crashed"}}': "_x10 1x90",
            f'sonic_worker_restarts_total{{{B},reason="crashed"}}': "7x30 stale _x5 1x60",
        },
        (15, 40, 90),
    ),
    Case("a clock runs a minute ahead", "ClockSkew", {f"sonic_clock_offset_seconds{{{A}}}": "60x60"}, (30,), (NODE_A,)),
    Case(
        "a slow handshake, and a clock that is put right",
        "ClockSkew",
        {f"sonic_clock_offset_seconds{{{A}}}": "1.5x60", f"sonic_clock_offset_seconds{{{B}}}": "-30x10 0.1x60"},
        range(30),
    ),
    Case(
        "a spool was full while a node was cut off",
        "NodeDroppingSamples",
        {f'sonic_metric_samples_dropped_total{{{A},reason="spool_full"}}': "_x20 4000x40"},
        (25,),
        (NODE_A,),
    ),
    Case(
        "a loss of yesterday, and an agent whose count starts again",
        "NodeDroppingSamples",
        {
            f'sonic_metric_samples_dropped_total{{{A},reason="spool_full"}}': "4000x90",
            f'sonic_metric_samples_dropped_total{{{B},reason="disk"}}': "4000x40 0x50",
        },
        (35, 45, 80),
    ),
    Case(
        "the hub acknowledges nothing",
        "NodeSpoolNearBound",
        {
            f"sonic_metric_spool_bytes{{{A}}}": growing(1, 60, 70),
            f"sonic_metric_spool_limit_bytes{{{A}}}": "100x60",
        },
        (25,),
        (NODE_A,),
    ),
    Case(
        "a node comes back from a day's cut",
        "NodeSpoolNearBound",
        {
            f"sonic_metric_spool_bytes{{{A}}}": f"{growing(-1, 40, 99)} 0x20",
            f"sonic_metric_spool_limit_bytes{{{A}}}": "100x60",
        },
        range(40),
    ),
    Case(
        "a node is left behind by a release",
        "OldModelVersion",
        {
            'sonic_slots{region="eu",node_id="a",model_version="1",state="ready"}': "1x700",
            **{
                f'sonic_slots{{region="eu",node_id="{node}",model_version="{version}",state="ready"}}': values
                for node in "bcd"
                for version, values in (("1", "1x100 stale"), ("2", "_x101 1x600"))
            },
        },
        (100 * 5 + DAY + 30,),
        (NODE_A,),
        every=5,
    ),
    Case(
        "a canary takes its time, a release rolls on for hours, and a region has no version in common",
        "OldModelVersion",
        {
            'sonic_slots{region="eu",node_id="a",model_version="3",state="ready"}': "1x700",
            **{f'sonic_slots{{region="eu",node_id="{n}",model_version="2",state="ready"}}': "1x700" for n in "bcd"},
            'sonic_slots{region="us",node_id="e",model_version="1",state="ready"}': "1x700",
            **{
                f'sonic_slots{{region="us",node_id="{node}",model_version="{version}",state="ready"}}': values
                for node in "fgh"
                for version, values in (("1", "1x400 stale"), ("2", "_x401 1x300"))
            },
            'sonic_slots{region="ap",node_id="i",model_version="1",state="ready"}': "1x700",
            **{
                f'sonic_slots{{region="ap",node_id="{node}",model_version="{version}",state="ready"}}': values
                for node, later in (("j", "2"), ("k", "3"))
                for version, values in (("1", "1x100 stale"), (later, "_x101 1x600"))
            },
        },
        (DAY, 400 * 5 + HOUR, 400 * 5 + 6 * HOUR, 2 * DAY),
        every=5,
    ),
    Case(
        "two drivers for one kind of card",
        "DriverMismatch",
        {
            f'sonic_gpu_info{{{A},gpu="0",uuid="1",name="L4",vendor="nvidia",driver="550"}}': "1x300",
            f'sonic_gpu_info{{{B},gpu="0",uuid="2",name="L4",vendor="nvidia",driver="535"}}': "1x300",
        },
        (13 * HOUR,),
        ({"region": "eu", "name": "L4"},),
        every=5,
    ),
    Case(
        "unlike cards, another region, and a rollout of four hours",
        "DriverMismatch",
        {
            f'sonic_gpu_info{{{A},gpu="0",uuid="1",name="L4",vendor="nvidia",driver="535"}}': "1x50 stale",
            f'sonic_gpu_info{{{A},gpu="0",uuid="1",name="L4",vendor="nvidia",driver="550"}}': "_x50 1x250",
            f'sonic_gpu_info{{{B},gpu="0",uuid="2",name="L4",vendor="nvidia",driver="535"}}': "1x98 stale",
            f'sonic_gpu_info{{{B},gpu="0",uuid="2",name="L4",vendor="nvidia",driver="550"}}': "_x98 1x200",
            f'sonic_gpu_info{{{B},gpu="1",uuid="3",name="Orin",vendor="nvidia",driver="36.4"}}': "1x300",
            'sonic_gpu_info{region="us",node_id="c",model_version="2",name="L4",driver="560"}': "1x300",
        },
        (6 * HOUR, 14 * HOUR, 20 * HOUR),
        every=5,
    ),
)

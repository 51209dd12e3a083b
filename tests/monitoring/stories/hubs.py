"""Hubs, their store, and what they forward."""

from __future__ import annotations

from .case import EU, Case, growing

TENANT = 'hub="h1",tenant="studio"'
STUDIO = {"tenant": "studio"}

CASES = (
    Case(
        "the only hub is gone",
        "HubDown",
        {'sonic_hub_store_failures_total{hub="h1"}': "0x20"},
        (30,),
        ({"scope": "hub"},),
    ),
    Case(
        "one hub of two is gone, and the other is restarted",
        "HubDown",
        {
            'sonic_hub_store_failures_total{hub="h1"}': "0x20",
            'sonic_hub_store_failures_total{hub="h2"}': "3x40 _x3 0x40",
        },
        range(20, 60),
    ),
    Case(
        "the store's disk is full",
        "StoreFailing",
        {'sonic_hub_store_failures_total{hub="h1"}': f"0x20 {growing(10, 30)}"},
        (35,),
        ({"hub": "h1"},),
    ),
    Case(
        "a switch dies, and half of the sessions with it",
        "SessionsVanished",
        {'sonic_hub_requeue_freezes_total{hub="h1"}': "0x20 1x40", 'sonic_hub_requeue_freezes_total{hub="h2"}': "3x60"},
        (22,),
        ({"hub": "h1"},),
    ),
    Case(
        "a hub is restarted that has frozen before",
        "SessionsVanished",
        {'sonic_hub_requeue_freezes_total{hub="h1"}': "2x20 0x40"},
        tuple(range(15, 40)),
    ),
    Case(
        "a node fails every probe",
        "NodesEjected",
        {'sonic_hub_nodes{hub="h1",region="eu",state="ejected"}': "0x10 1x60"},
        (45,),
        (EU,),
    ),
    Case(
        "nodes are ejected and come back by their probe",
        "NodesEjected",
        {'sonic_hub_nodes{hub="h1",region="eu",state="ejected"}': "0x10 1x20 0 2x20 0x30"},
        tuple(range(10, 70)),
    ),
    Case(
        "a database is switched over, and a hub is restarted",
        "StoreFailing",
        {
            'sonic_hub_store_failures_total{hub="h1"}': "0x20 4 8 12x60",
            'sonic_hub_store_failures_total{hub="h2"}': "50x20 0x60",
        },
        tuple(range(15, 50)),
    ),
    Case(
        "the token of a tenant is revoked",
        "ForwardingHeld",
        {f'sonic_hub_forward_held{{{TENANT},code="401"}}': "_x10 1x30"},
        (15,),
        ({**STUDIO, "code": "401"},),
    ),
    Case(
        "a gateway refuses for a minute",
        "ForwardingHeld",
        {f'sonic_hub_forward_held{{{TENANT},code="403"}}': "_x10 1 stale _x30"},
        range(9, 20),
    ),
    Case(
        "a tenant over its limits",
        "ForwardingLag",
        {f"sonic_hub_forward_lag_seconds{{{TENANT}}}": f"0x10 {growing(50, 60)}"},
        (40,),
        (STUDIO,),
    ),
    Case(
        "an hour of Mimir's absence is made good",
        "ForwardingLag",
        {f"sonic_hub_forward_lag_seconds{{{TENANT}}}": f"10x10 _x60 {growing(-100, 35, 3600)} 10x30"},
        tuple(range(70, 120, 3)),
    ),
    Case(
        "a receiver does not get through what it is sent",
        "SpoolNearBound",
        {
            f"sonic_hub_forward_spool_bytes{{{TENANT}}}": growing(1, 60, 60),
            f"sonic_hub_forward_spool_limit_bytes{{{TENANT}}}": "100x60",
        },
        (30,),
        (STUDIO,),
    ),
    Case(
        "a small tenant's samples wait for 20 hours",
        "SpoolNearBound",
        {
            f"sonic_hub_forward_spool_bytes{{{TENANT}}}": "1x60",
            f"sonic_hub_forward_spool_limit_bytes{{{TENANT}}}": "100x60",
            f"sonic_hub_forward_lag_seconds{{{TENANT}}}": growing(60, 60, 20 * 3600),
        },
        (30,),
        (STUDIO,),
    ),
    Case(
        "half of a spool is used, and then it empties",
        "SpoolNearBound",
        {
            f"sonic_hub_forward_spool_bytes{{{TENANT}}}": "50x10 85x2 10x60",
            f"sonic_hub_forward_spool_limit_bytes{{{TENANT}}}": "100x60",
            f"sonic_hub_forward_lag_seconds{{{TENANT}}}": "3600x60",
        },
        (5, 12, 14, 30),
    ),
    Case(
        "a spool overflows",
        "ForwardingDropping",
        {f'sonic_hub_forward_dropped_samples_total{{{TENANT},reason="spool_full"}}': "_x20 7000x30"},
        (22,),
        ({**STUDIO, "reason": "spool_full"},),
    ),
    Case(
        "what comes back from an outage is beyond the receiver's window",
        "ForwardingDropping",
        {
            f'sonic_hub_forward_refused_samples_total{{{TENANT},reason="sample-timestamp-too-old"}}': (
                f"_x20 {growing(500, 5, 500)} 3000x30"
            )
        },
        (22,),
        ({**STUDIO, "reason": "sample-timestamp-too-old"},),
    ),
    Case(
        "a loss of yesterday, and a hub that is restarted",
        "ForwardingDropping",
        {
            f'sonic_hub_forward_dropped_samples_total{{{TENANT},reason="spool_full"}}': "7000x60",
            f'sonic_hub_forward_dropped_samples_total{{{TENANT},reason="too_old"}}': "7000x30 stale _x30",
            f'sonic_hub_forward_refused_samples_total{{{TENANT},reason="sample-out-of-order"}}': growing(9, 60),
        },
        (20, 32, 50),
    ),
    Case(
        "a tenant has more series than it may",
        "ForwardingRefused",
        {f'sonic_hub_forward_refused_samples_total{{{TENANT},reason="max-series-per-user"}}': growing(100, 60)},
        (30,),
        ({**STUDIO, "reason": "max-series-per-user"},),
    ),
    Case(
        "a hub that died repeats what it had sent",
        "ForwardingRefused",
        {
            f'sonic_hub_forward_refused_samples_total{{{TENANT},reason="sample-out-of-order"}}': (
                "0x19 2000 4000 4000x40"
            )
        },
        tuple(range(18, 45)),
    ),
)

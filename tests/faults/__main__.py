"""Real faults on a real fleet: kill -9, freezes, cut and slow lines, full disks, wrong clocks, while callers write down
what they are told; in the end the history is checked against the store.

python -m tests.faults --minutes 10 --seed 7 [--hubs 2 --store postgresql]

It prints what happens, and one JSON object last. The folder with logs, journals and the history is kept when a promise
was broken, or when --folder names it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults import checker, fleet, world
from tests.faults.blows import Storm, effects
from tests.faults.callers import TENANTS, Caller
from tests.faults.fleet import Fleet
from tests.faults.history import FINAL, Book

ENDED_WITHIN_S = 90.0  # of the end of the last fault, and
ENDED_PER_S = 10.0  # of the jobs that go on then: few, as machines that test do other things too
CALLERS_PER_TENANT = 2
SHOWN_VIOLATIONS = 20


async def storm(made: Fleet, book: Book, seed: int, jobs: int, seconds: float) -> dict[str, Any]:
    """Let callers work on a fleet that suffers; the answer is what happened."""
    chance, began_s, stop = random.Random(seed), time.monotonic(), asyncio.Event()
    made.let_in(TENANTS)
    callers = [
        Caller(
            f"{tenant}-{number}",
            tenant,
            made.targets,
            book,
            random.Random(f"{seed}-{tenant}-{number}"),
            made.credentials,
            made.keys[tenant],
        )
        for tenant in TENANTS
        for number in range(CALLERS_PER_TENANT)
    ]
    for caller in callers:
        caller.open()
    await asyncio.gather(*(caller.upload_inputs() for caller in callers))

    def tell(what: str) -> None:
        submitted, open_jobs = sum(one.submitted for one in callers), sum(len(one.following) for one in callers)
        print(f"{time.monotonic() - began_s:7.1f} s  {submitted:6} jobs, {open_jobs:5} go on;  {what}", flush=True)

    blows = Storm(made, chance, tell)
    share = jobs // len(callers)
    working = [asyncio.create_task(one.work(share, share / seconds), name=one.name) for one in callers]
    listing = [asyncio.create_task(one.list_now_and_then(stop), name=f"lists of {one.name}") for one in callers[::2]]
    await blows.run(time.monotonic() + seconds)
    healed_s = time.monotonic()
    tell("all faults are healed")
    goes_on = jobs - sum(one.submitted - len(one.following) for one in callers)
    left_s = max(seconds - (healed_s - began_s), 0)
    _, unfinished = await asyncio.wait(working, timeout=ENDED_WITHIN_S + left_s + goes_on / ENDED_PER_S)
    ended_after_s = time.monotonic() - healed_s
    for caller in callers:
        for job_id, how in caller.following.items():
            detail = f"it still waited by {how} {ended_after_s:.0f} s after the last fault"
            caller._note("follow", healed_s, "unclear", job_id=job_id, detail=detail)
    tell("every job has ended" if not unfinished else "jobs go on for ever")
    stop.set()
    await asyncio.gather(*listing)
    await asyncio.gather(*(caller._list() for caller in callers[::2]))
    for task in unfinished:
        task.cancel()
    await asyncio.wait(working)
    for task in working:
        if not task.cancelled() and (error := task.exception()):
            raise error
    for caller in callers:
        await caller.close()
    felt = effects(made, blows.blows, book.calls)
    return {
        "ended_after_s": round(ended_after_s, 1),
        "faults": dict(sorted(Counter(blow.kind for blow in blows.blows).items())),
        "felt": dict(sorted(felt.items())),
    }


def run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One storm from the first process to the verdict."""
    book = Book(folder / "history.jsonl")
    began_s = time.monotonic()
    with fleet.running(folder, given.seed, given.hubs, given.store, given.agents, given.nodes) as made:
        happened = asyncio.run(storm(made, book, given.seed, given.jobs, 60 * given.minutes))
        book.close()
        stored, notes = made.stored(), made.notes()
        died = [part.name for part in (*made.agents, *made.hubs) if not part.alive()]
        exits = {part.name: part.stop() for part in (*made.agents, *made.hubs)}
        lines = [line for hub in made.hubs for line in hub.said()]
    violations = checker.check(book.calls, stored, notes, fleet.MAX_TRIES)
    calls = Counter(f"{call.kind} {call.outcome}" for call in book.calls)
    requeued = Counter(entry["reason"].partition(" ")[0] for _, message, entry in lines if message == "requeued")
    rendered = sum(note.kind == "finished" and note.detail == "video" for note in notes)
    committed = sum(job.state == "succeeded" for job in stored)
    return {
        "seed": given.seed,
        "hubs": given.hubs,
        "store": given.store,
        "seconds": round(time.monotonic() - began_s, 1),
        "jobs": len(stored),
        "states": dict(sorted(Counter(job.state for job in stored).items())),
        "failed_for": dict(Counter(job.reason for job in stored if job.state == "failed")),
        "calls": len(book.calls),
        "calls_by_outcome": dict(sorted(calls.items())),
        **happened,
        "tries_given_up": dict(Counter(one.reason for job in stored for one in job.tries if one.reason)),
        "requeued": sum(requeued.values()),
        "late_winners": sum(job.won_by is not None and job.won_by < len(job.tries) for job in stored),
        "rendered_in_vain": rendered - committed,
        "died": died,
        "exits": exits,
        "unended": sum(job.state not in FINAL for job in stored),
        "violations": [asdict(one) for one in violations[:SHOWN_VIOLATIONS]],
        "violations_by_rule": dict(Counter(one.rule for one in violations)),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=10.0, help="how long faults go on")
    options.add_argument(
        "--jobs", type=int, default=0, help="how many are submitted in that time; 40 a second unless given"
    )
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--hubs", type=int, default=1)
    options.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    options.add_argument("--agents", type=int, default=4, help="processes")
    options.add_argument("--nodes", type=int, default=8, help="simulated by each")
    options.add_argument("--folder", type=Path, help="where logs, journals and the history stay")
    given = options.parse_args()
    given.jobs = given.jobs or int(given.minutes * 60 * 40)
    if not world.entered():
        if why := world.why_not():
            sys.exit(why)
        sys.exit(subprocess.call(world.enter(sys.argv[1:])))
    folder = given.folder or Path(tempfile.mkdtemp(prefix="sonic-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    result = run(given, folder)
    if result["violations"] or result["died"] or given.folder:
        print(f"everything is in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result))
    sys.exit(bool(result["violations"] or result["died"]))


if __name__ == "__main__":
    main()

"""Run on the hub's box: submits short jobs until a file appears, then waits for all and prints how they ended.

`python load.py FOLDER SECONDS`: FOLDER has face.png and voice.wav, and `stop` ends the submitting. What is
printed is a JSON list with an object for each job.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from sonic import config
from sonic.cli.submit import connect
from sonic.v1 import jobs_pb2


async def main(folder: Path, every_s: float) -> None:
    settings = config.load().build(config.ClientConfig)
    async with connect(settings) as client:
        submitted = []
        while not (folder / "stop").exists():
            key = f"{folder.name}-{len(submitted)}"
            job = await client.submit(folder / "face.png", folder / "voice.wav", idempotency_key=key)
            submitted.append(job.job_id)
            (folder / "submitted").write_text(str(len(submitted)))
            await asyncio.sleep(every_s)
        ended = [await client.wait(job_id) for job_id in submitted]
    print(json.dumps([_told(job) for job in ended]))


def _told(job: jobs_pb2.Job) -> dict[str, object]:
    return {
        "job_id": job.job_id,
        "state": jobs_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_").lower(),
        "nodes": [attempt.node_id for attempt in job.attempts],
        "failures": [attempt.failure.reason for attempt in job.attempts if attempt.HasField("failure")],
        "video": job.video.sha256,
    }


asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))

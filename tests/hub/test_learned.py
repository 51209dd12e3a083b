"""What a hub has learned of its fleet's speed outlives it."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import grpc.aio
import pytest
import sqlalchemy as sa

from hub.core.forecast import Forecasts, Kind, Lesson
from hub.core.jobs import Work
from hub.server import learned
from hub.server.learned import Learned
from hub.service import Hub, serving
from hub.store import forecasts as stored
from hub.store.database import open_database
from sonic.v1 import artifacts_pb2, jobs_pb2
from sonic.v1 import fleet_service_pb2 as fleet_pb

from .conftest import config
from .peers import MP4, Agent, Caller, digest
from .test_forecast import GIB, GPU, Box, any_work, boxes, live

WORKS = [any_work(random.Random(number)) for number in range(20)]


def experienced(fleet: list[Box]) -> Forecasts:
    forecasts = Forecasts()
    for box in fleet:
        box.calibrate(forecasts)
    live(forecasts, fleet, renders=200)
    forecasts.rendered(GPU, "n0", WORKS[0], 9.0, warm=False, preparing_s=1.0)
    forecasts.transferred("n0", 10_000_000, 3.0)
    forecasts.used_memory("warp", "1", Work(5.0, 512), 3 * GIB)
    for _ in range(2):
        forecasts.ran_out(GPU, Work(5.0, 1024), 8 * GIB)
    return forecasts


def kept(forecasts: Forecasts) -> list[Lesson]:
    """All that it has learned, as it comes back from a store."""
    lessons: list[Lesson] = []
    while part := forecasts.take_lessons(7):
        assert len(part) <= 7
        lessons += (Lesson(*map(tuple, json.loads(json.dumps(lesson)))) for lesson in part)
    return lessons


def answers(forecasts: Forecasts, fleet: list[Box]) -> list[object]:
    names = [*(box.name for box in fleet), "new", ""]
    renders = [forecasts.render(GPU, name, work, warm) for name in names for work in WORKS for warm in (True, False)]
    unlike = forecasts.render(Kind("warp", "1", "another"), "n0", WORKS[0], False)
    memory = [(forecasts.memory("warp", "1", work), forecasts.memory_at_least("warp", "1", work)) for work in WORKS]
    return [renders, unlike, memory, forecasts.transfer("n0", 1000), forecasts.render(GPU, "n0", Work(0.0, 256), False)]


def test_what_is_remembered_is_what_was_learned() -> None:
    fleet = boxes(6)
    before, after = experienced(fleet), Forecasts()
    after.remember(kept(before))
    assert answers(after, fleet) == answers(before, fleet)
    for forecasts in (before, after):  # and it goes on learning from there
        forecasts.calibrated(GPU, "n1", 0.4)
        forecasts.rendered(GPU, "n1", WORKS[3], 20.0, warm=True)
        forecasts.rendered(GPU, "n7", WORKS[4], 20.0, warm=False)
    assert answers(after, fleet) == answers(before, fleet)


def test_a_probe_clip_that_is_known_is_not_learned_twice() -> None:
    before, after = Forecasts(), Forecasts()
    before.calibrated(GPU, "n1", 2.0)
    after.remember(kept(before))
    after.calibrated(GPU, "n1", 2.0)
    assert not after.take_lessons(10)


def test_only_what_is_new_is_taken_and_what_could_not_be_kept_is_taken_again() -> None:
    forecasts = Forecasts()
    forecasts.calibrated(GPU, "n1", 2.0)
    taken = forecasts.take_lessons(10)
    assert {lesson.subject[0] for lesson in taken} == {"class", "node"}
    assert not forecasts.take_lessons(10)
    forecasts.give_back(taken)
    assert forecasts.take_lessons(10) == taken


@pytest.mark.parametrize(
    ("subject", "state"),
    [
        (("class", *GPU), ([0.0] * 4, [[0.0] * 5] * 5, 0.1, 1, 0.0)),
        (("class", *GPU), ([float("nan")] * 5, [[0.0] * 5] * 5, 0.1, 1, 0.0)),
        (("class", "warp"), ([0.0] * 5, [[0.0] * 5] * 5, 0.1, 1, 0.0)),
        (("node", "n1", *GPU), ("fast",)),
        (("line", "n1"), (1.0, 2.0, 3.0)),
        (("memory", "warp", "1"), (None, None)),
        (("typical",), ()),
        (("mood", "n1"), (1.0,)),
    ],
)
def test_a_lesson_in_other_words_is_left_out(subject: tuple[str, ...], state: tuple[object, ...]) -> None:
    forecasts = Forecasts()
    forecasts.remember([Lesson(subject, state)])
    assert answers(forecasts, []) == answers(Forecasts(), [])


def test_the_newest_word_is_kept_and_what_is_old_or_too_much_is_not(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "MAX_LESSONS", 2)
    database, now_s = open_database(database_url), 1e9
    with database.begin() as connection:
        for after_s, name in enumerate(("old", "a", "b")):
            stored.save(connection, [Lesson(("line", name), (1.0, 1.0))], now_s + after_s)
        stored.save(connection, [Lesson(("line", "a"), (2.0, 3.0)), Lesson(("line", "x" * 2000), ())], now_s + 3)
        connection.exec_driver_sql("""UPDATE forecasts SET subject = 'no JSON' WHERE subject = '["line", "b"]'""")
        assert stored.load(connection) == (Lesson(("line", "a"), (2.0, 3.0)),)
        stored.save(connection, [Lesson(("line", "ancient"), (1.0, 1.0))], now_s - stored.KEPT_S)
        stored.forget_old(connection, now_s + 3)
        rows = connection.exec_driver_sql("SELECT subject FROM forecasts ORDER BY saved_at_s").scalars()
        assert list(rows) == ["no JSON", '["line", "a"]']
    database.dispose()


async def a_slow_render(hub: Hub) -> None:
    async with grpc.aio.insecure_channel(hub.grpc_address) as channel:
        caller, agent = Caller(channel), Agent(channel)
        await agent.join()
        job = await caller.submit_new("k1")
        ref = (await agent.hear("assignment")).assignment.ref
        agent.say(started=fleet_pb.AttemptStarted(ref=ref))
        await agent.upload_video(ref)
        stages = [jobs_pb2.StageTime(stage="rendering", seconds=300.0)]
        report = jobs_pb2.RenderReport(audio_seconds=10.0, video_seconds=10.0, stages=stages)
        video = artifacts_pb2.Artifact(sha256=digest(MP4), size_bytes=len(MP4), media_type="video/mp4")
        agent.say(result=fleet_pb.AttemptResult(ref=ref, video=fleet_pb.RenderedVideo(video=video, report=report)))
        await agent.hear("result_ack")
        await caller.ended(job.job_id)


def expected_s(hub: Hub) -> float:
    return hub.dispatcher.forecasts.render(Kind("warp", "1", "cpu"), "n1", Work(10.0, 1024), False).expected_s


async def test_a_hub_knows_after_its_restart_what_it_knew_before(tmp_path: Path, database_url: str) -> None:
    about = config(tmp_path / "hub", database_url=database_url)
    async with serving(about) as hub:
        unknowing_s = expected_s(hub)
        await a_slow_render(hub)
        before_s = expected_s(hub)
        assert before_s > 2 * unknowing_s
    async with serving(about) as hub:
        assert expected_s(hub) == before_s


async def test_it_is_saved_while_the_hub_works_and_later_where_the_store_refuses(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned, "SAVE_INTERVAL_S", 0.01)
    database, forecasts = open_database(database_url), Forecasts()
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE forecasts RENAME TO away")
    saving = asyncio.create_task(Learned(database, forecasts).run())
    forecasts.calibrated(GPU, "n1", 2.0)
    await asyncio.sleep(0.1)
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO forecasts")
    async with asyncio.timeout(60):
        while len(rows(database)) < 2:
            await asyncio.sleep(0.01)
    saving.cancel()
    await asyncio.wait([saving])
    assert {lesson.subject[0] for lesson in rows(database)} == {"class", "node"}
    database.dispose()


def rows(database: sa.Engine) -> tuple[Lesson, ...]:
    with database.connect() as connection:
        return stored.load(connection)

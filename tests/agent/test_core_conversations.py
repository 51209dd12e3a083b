from __future__ import annotations

import pytest

from agent.core import events
from agent.core.attempts import Failure, Fault, Progress, Ref, Rendered, Stopped, Work
from agent.core.game_day import GameDayFault
from agent.core.instructions import (
    BeginFault,
    CancelProbe,
    CancelRender,
    Clip,
    Connect,
    EndFault,
    Exit,
    FetchInputs,
    ForgetResult,
    KillWorker,
    Probe,
    Render,
    SendCheckpoint,
    SendDraining,
    SendHeartbeat,
    SendProbed,
    SendProgress,
    SendResult,
    SendStarted,
    SlotState,
    SlotView,
    StartWorker,
    StopFetching,
    StoreResult,
    UploadVideo,
)
from agent.core.terms import Terms
from tests.agent.playbook import ENGINES, REF, WORK, Playbook, elsewhere, ready, rendering, stored

TICK = events.Ticked()
CRASH = events.ExitCause.CRASHED
NOT_STARTED = SlotView(0, SlotState.BACKOFF, detail="its worker has not been started yet")


def declined(why: str) -> Failure:
    return Failure(Fault.DECLINED, "DECLINED", why)


def slot_state(book: Playbook, index: int = 0) -> SlotState:
    return book.node.slots[index].state


class TestOneJob:
    def test_goes_from_assignment_to_acknowledgement(self):
        report = Rendered(b"report", 3.0)
        (
            Playbook()
            .on(TICK, Connect((NOT_STARTED,), (), (), draining=False), StartWorker(0, 1))
            .on(events.Welcomed(5.0))
            .on(events.WorkerLoaded(0, 1, ENGINES), Probe(0, 1))
            .on(events.WorkerProbed(0, 1, 2.0))
            .on(events.Assigned(WORK), FetchInputs(WORK))
            .on(events.InputsReady(REF), Render(0, 1, WORK), SendStarted(REF))
            .after(3)
            .on(events.WorkerRendered(0, 1, "job/1", b"report"), StoreResult(REF, report))
            .on(events.ResultStored(REF), UploadVideo(REF))
            .on(events.VideoUploaded(REF), SendResult(REF))
            .on(events.Acknowledged(REF, events.Verdict.COMMITTED), ForgetResult(REF))
        )

    def test_a_slot_is_free_for_the_next_job_while_the_video_of_the_last_one_is_uploaded(self):
        book = stored(rendering())
        book.on(events.Assigned(elsewhere(0)), FetchInputs(elsewhere(0)))

    def test_progress_grows_over_all_stages_and_is_thinned(self):
        book = ready()
        told = book.told(events.Assigned(WORK)) + book.told(events.InputsReady(REF))
        for done in range(100):
            book.after(0.1)
            progress = Progress("rendering", done, 100, done / 100)
            told += book.told(events.WorkerProgressed(0, 1, "job/1", progress))
        told += stored(book).told(TICK)
        fractions = [one.progress.fraction for one in told if isinstance(one, SendProgress)]
        assert fractions == sorted(fractions)
        assert 10 < len(fractions) < 50

    def test_a_repeated_assignment_changes_nothing(self):
        rendering().on(events.Assigned(WORK))
        stored(rendering()).on(events.Assigned(WORK))


class TestDeclining:
    def decline(self, book: Playbook, work: Work, why: str) -> None:
        book.on(events.Assigned(work), StoreResult(work.ref, declined(why)))
        book.on(events.ResultStored(work.ref), SendResult(work.ref))

    def test_a_busy_slot(self):
        self.decline(rendering(), elsewhere(0), "slot 0 is busy with job/1")

    def test_a_slot_that_does_not_exist(self):
        self.decline(ready(), elsewhere(3), "there is no slot 3; the node has 1, counted from 0")

    def test_a_worker_that_has_not_rendered_its_probe_clip(self):
        book = Playbook()
        book.told(TICK)
        book.told(events.Welcomed(5.0))
        book.told(events.WorkerLoaded(0, 1, ENGINES))
        self.decline(book, WORK, "the worker of slot 0 is not ready: rendering the probe clip")

    def test_another_model_version(self):
        work = Work(REF, 0, "warp", "2")
        self.decline(ready(), work, "warp 2 is not loaded in slot 0, only warp 1")

    def test_a_drained_node_until_it_is_resumed(self):
        book = ready().on(events.DrainWished(True))
        self.decline(book, WORK, "the node is drained")
        book.on(events.DrainWished(False)).on(events.Assigned(elsewhere(0)), FetchInputs(elsewhere(0)))

    def test_a_stopping_agent(self):
        book = rendering(Terms(slots=2))
        book.told(events.StopRequested())
        self.decline(book, elsewhere(1), "the agent is stopping")


class TestCancel:
    def test_while_fetching_frees_the_slot_at_once(self):
        book = ready()
        book.told(events.Assigned(WORK))
        book.on(events.CancelRequested(REF), StopFetching(REF), StoreResult(REF, Stopped()))
        book.on(events.InputsReady(REF))
        assert slot_state(book) is SlotState.READY

    def test_a_worker_that_lets_go_stays_warm(self):
        cancelled = Failure(Fault.INTERNAL, "CANCELLED", "The render was cancelled")
        book = rendering()
        book.on(events.CancelRequested(REF), CancelRender(0, 1, REF)).on(events.CancelRequested(REF))
        book.on(events.WorkerFailed(0, 1, "job/1", cancelled), StoreResult(REF, Stopped()))
        book.on(events.ResultStored(REF), SendResult(REF))
        assert slot_state(book) is SlotState.READY

    def test_a_worker_that_does_not_let_go_is_killed_and_started_again_at_once(self):
        book = rendering(Terms(cancel_grace_s=5.0))
        book.on(events.CancelRequested(REF), CancelRender(0, 1, REF)).quiet(4.9)
        why = "did not let go of job/1 within 5 s"
        book.after(0.1).on(TICK, StoreResult(REF, Stopped()), KillWorker(0, 1, why))
        book.on(events.WorkerExited(0, 1, CRASH, "signal 9"), StartWorker(0, 2))

    def test_a_render_that_finishes_all_the_same_is_stopped(self):
        book = rendering().on(events.CancelRequested(REF), CancelRender(0, 1, REF))
        book.on(events.WorkerRendered(0, 1, "job/1", b"report"), StoreResult(REF, Stopped()))

    def test_an_unknown_attempt_is_answered(self):
        ready().on(events.CancelRequested(REF), StoreResult(REF, Stopped()))

    def test_a_video_not_yet_uploaded_is_dropped(self):
        book = stored(rendering()).on(events.CancelRequested(REF), StoreResult(REF, Stopped()))
        book.on(events.ResultStored(REF), SendResult(REF))

    def test_a_video_already_uploaded_is_left_to_the_hubs_verdict(self):
        book = stored(rendering()).on(events.VideoUploaded(REF), SendResult(REF))
        book.on(events.CancelRequested(REF))


class TestWorkers:
    def died(self, cause: events.ExitCause) -> Failure:
        instructions = rendering().told(events.WorkerExited(0, 1, cause, "signal 9"))
        (outcome,) = [one.outcome for one in instructions if isinstance(one, StoreResult)]
        assert isinstance(outcome, Failure)
        return outcome

    def test_a_crash_and_the_out_of_memory_killer_are_told_apart(self):
        assert self.died(CRASH).fault is Fault.CRASH
        assert self.died(events.ExitCause.OUT_OF_MEMORY).fault is Fault.OUT_OF_MEMORY

    def test_its_last_words_are_told_to_the_operator_and_not_to_the_caller(self):
        book = rendering()
        failure = Failure(Fault.CRASH, "WORKER_CRASHED", "the worker died: signal 11")
        book.on(events.WorkerExited(0, 1, CRASH, "signal 11", "no such file: /secret"), StoreResult(REF, failure))
        assert book.node.slots[0].detail == "signal 11; its last words: no such file: /secret"

    def test_a_restarted_worker_must_render_its_probe_clip_before_it_is_offered(self):
        book = rendering()
        book.told(events.WorkerExited(0, 1, CRASH, "signal 11"))
        assert slot_state(book) is SlotState.BACKOFF
        book.after(1).on(TICK, StartWorker(0, 2))
        assert slot_state(book) is SlotState.STARTING
        assert not book.node.networks
        book.on(events.WorkerLoaded(0, 2, ENGINES, (("mouth", "cuda"),)), Probe(0, 2))
        assert book.node.networks == {("mouth", "cuda")}
        assert slot_state(book) is SlotState.STARTING
        book.on(events.WorkerProbed(0, 2, 2.0))
        assert slot_state(book) is SlotState.READY

    def test_waits_grow_with_each_death_until_a_render_succeeds(self):
        book = ready()
        generation = 1
        for wait in (1, 2, 4, 8):
            book.on(events.WorkerExited(0, generation, CRASH, "exit status 1"))
            book.quiet(wait - 0.1)
            generation += 1
            book.after(0.1).on(TICK, StartWorker(0, generation))
            book.told(events.WorkerLoaded(0, generation, ENGINES))
            book.told(events.WorkerProbed(0, generation, 2.0))
        book.told(events.Assigned(WORK))
        book.told(events.InputsReady(REF))
        book.told(events.WorkerRendered(0, generation, "job/1", b""))
        book.on(events.WorkerExited(0, generation, CRASH, "exit status 1"))
        book.after(1).on(TICK, StartWorker(0, generation + 1))

    def test_a_failed_probe_clip_ends_the_worker(self):
        book = Playbook()
        book.told(TICK)
        book.told(events.WorkerLoaded(0, 1, ENGINES))
        failure = Failure(Fault.BROKEN_OUTPUT, "OUTPUT_BROKEN", "no frames")
        why = "could not render the probe clip: no frames"
        book.on(events.WorkerFailed(0, 1, "probe", failure), KillWorker(0, 1, why))
        book.on(events.WorkerExited(0, 1, CRASH, "signal 9"))
        assert book.node.slots[0].detail == why

    def test_a_worker_that_does_not_load_or_probe_in_time_is_killed(self):
        book = Playbook(Terms(load_timeout_s=300, probe_timeout_s=120))
        book.told(TICK)
        book.after(300).on(TICK, KillWorker(0, 1, "did not load its engine within 300 s"))
        book.on(events.WorkerExited(0, 1, CRASH, "")).after(1).on(TICK, StartWorker(0, 2))
        book.on(events.WorkerLoaded(0, 2, ENGINES), Probe(0, 2))
        book.after(120).on(TICK, KillWorker(0, 2, "did not render the probe clip within 120 s"))

    def test_a_render_whose_ticks_stand_still_times_out_though_the_worker_gives_signs_of_life(self):
        book = rendering(Terms(stall_timeout_s=60))
        book.on(events.WorkerAlive(0, 1, ticks=7))
        for _ in range(59):
            book.after(1).on(events.WorkerAlive(0, 1, ticks=7))
        why = "made no progress for 60 s"
        hung = Failure(Fault.TIMEOUT, "WORKER_HUNG", f"the worker {why}")
        book.after(1).on(events.WorkerAlive(0, 1, ticks=7), StoreResult(REF, hung), KillWorker(0, 1, why))

    def test_a_slow_render_whose_ticks_move_is_left_alone(self):
        book = rendering(Terms(stall_timeout_s=60))
        for second in range(600):
            book.after(1).on(events.WorkerAlive(0, 1, ticks=second // 50))

    def test_a_silent_worker_is_killed(self):
        why = "gave no sign of life for 30 s"
        hung = Failure(Fault.TIMEOUT, "WORKER_HUNG", f"the worker {why}")
        rendering().after(30).on(TICK, StoreResult(REF, hung), KillWorker(0, 1, why))

    def test_while_the_agent_itself_stood_still_no_worker_was_silent(self):
        book = rendering(Terms(slots=2)).after(100).on(events.StoodStill(100))
        book.on(events.WorkerAlive(0, 1, ticks=1)).on(events.WorkerAlive(1, 1, ticks=1))
        why = "gave no sign of life for 30 s"
        hung = Failure(Fault.TIMEOUT, "WORKER_HUNG", f"the worker {why}")
        book.after(30).on(TICK, StoreResult(REF, hung), KillWorker(0, 1, why), KillWorker(1, 1, why))

    def test_after_a_device_error_the_process_is_not_trusted_again(self):
        failure = Failure(Fault.DEVICE, "BROKEN", "the GPU fell off the bus")
        book = rendering()
        book.on(
            events.WorkerFailed(0, 1, "job/1", failure),
            StoreResult(REF, failure),
            KillWorker(0, 1, "the GPU fell off the bus"),
        )
        assert slot_state(book) is SlotState.BACKOFF

    @pytest.mark.parametrize("between", [Fault.BAD_INPUT, None])
    def test_a_process_that_runs_out_of_memory_is_kept_until_it_does_so_again(self, between: Fault | None):
        failure = Failure(Fault.OUT_OF_MEMORY, "OUT_OF_MEMORY", "no room")
        book = rendering().on(events.WorkerFailed(0, 1, "job/1", failure), StoreResult(REF, failure))
        assert slot_state(book) is SlotState.READY

        def next_job(number: int) -> str:
            ref = Ref("job", number)
            book.told(events.Assigned(Work(ref, 0, "warp")))
            book.told(events.InputsReady(ref))
            return str(ref)

        if between:
            book.told(events.WorkerFailed(0, 1, next_job(2), Failure(between, "NO_FACE", "")))
        else:
            book.told(events.WorkerRendered(0, 1, next_job(2), b""))
        told = book.told(events.WorkerFailed(0, 1, next_job(3), failure))
        assert any(isinstance(one, KillWorker) for one in told) == bool(between)

    def test_bad_input_leaves_the_worker_ready(self):
        failure = Failure(Fault.BAD_INPUT, "NO_FACE", "No face was found in the portrait")
        book = rendering().on(events.WorkerFailed(0, 1, "job/1", failure), StoreResult(REF, failure))
        assert slot_state(book) is SlotState.READY

    def test_an_attempt_that_still_waits_for_its_inputs_goes_back_when_the_worker_dies(self):
        book = ready()
        book.told(events.Assigned(WORK))
        outcome = declined("its worker ended: signal 11")
        book.on(events.WorkerExited(0, 1, CRASH, "signal 11"), StopFetching(REF), StoreResult(REF, outcome))

    def test_an_earlier_process_is_not_heard(self):
        book = rendering()
        book.told(events.WorkerExited(0, 1, CRASH, "signal 11"))
        book.after(1).told(TICK)
        book.told(events.WorkerLoaded(0, 2, ENGINES))
        book.on(events.WorkerExited(0, 1, CRASH, "signal 11")).on(events.WorkerRendered(0, 1, "job/1", b""))
        assert slot_state(book) is SlotState.STARTING


class TestSession:
    def test_waits_grow_with_jitter_and_no_call_is_made_before(self):
        book = Playbook()
        book.told(TICK)
        for wait in (1, 2, 4, 8, 15, 15):  # half of 2, 4, 8, 16, 30, 30
            book.on(events.SessionEnded("refused", jitter=0.5)).quiet(wait - 0.1)
            (connect,) = [one for one in book.after(0.1).told(TICK) if isinstance(one, Connect)]
            assert not connect.running

    def test_no_wait_is_so_long_that_leases_run_out_in_it(self):
        book = Playbook()
        book.told(TICK)
        book.told(events.Welcomed(1.0, lease_s=6.0))
        for wait in (1.5, 1.5, 1.5):  # a quarter of the lease
            book.told(events.SessionEnded("cut", jitter=1.0))
            book.quiet(wait - 0.1)
            assert any(isinstance(one, Connect) for one in book.after(0.1).told(TICK))

    def test_a_session_that_held_ends_the_row_of_failures_and_a_short_one_does_not(self):
        book = Playbook()
        for held, wait in ((1, 2), (1, 4), (60, 2), (1, 4)):
            assert any(isinstance(one, Connect) for one in book.told(TICK))
            book.told(events.Welcomed(5.0))
            book.told(events.WorkerLoaded(0, 1, ENGINES))
            book.told(events.WorkerProbed(0, 1, 1.0))
            book.told(events.WorkerAlive(0, 1, 0))
            book.after(held / 2).told(events.WorkerAlive(0, 1, 0))
            book.after(held / 2).told(events.WorkerAlive(0, 1, 0))
            book.told(events.SessionEnded("cut", jitter=1.0))
            book.quiet(wait - 0.1).after(0.1)

    def test_a_return_names_what_runs_and_what_is_finished_and_reports_again(self):
        book = stored(rendering(Terms(slots=2)))
        other = elsewhere(1)
        book.told(events.Assigned(other))
        book.told(events.InputsReady(other.ref))
        book.on(events.VideoUploaded(REF), SendResult(REF))
        book.on(events.SessionEnded("cut", jitter=0.0), Connect(book.node.slots, (other.ref,), (REF,), draining=False))
        book.on(events.Welcomed(5.0), SendStarted(other.ref), SendResult(REF))

    def test_what_finishes_during_a_cut_is_uploaded_and_reported_after_it(self):
        book = rendering()
        book.told(events.SessionEnded("cut", jitter=1.0))
        book.on(events.WorkerRendered(0, 1, "job/1", b"report"), StoreResult(REF, Rendered(b"report", 0.0)))
        book.on(events.ResultStored(REF)).after(2).told(TICK)
        book.on(events.Welcomed(5.0), UploadVideo(REF)).on(events.VideoUploaded(REF), SendResult(REF))

    def test_nothing_is_said_before_the_welcome(self):
        book = Playbook()
        book.told(TICK)
        told = book.told(events.WorkerLoaded(0, 1, ENGINES)) + book.told(events.WorkerProbed(0, 1, 1.0))
        assert told == [Probe(0, 1)]

    def test_a_heartbeat_comes_in_time_and_whenever_a_slot_changes(self):
        book = rendering()
        assert not book.after(4).told(TICK)
        (beat,) = book.after(1).told(TICK)
        assert beat == SendHeartbeat(book.node.slots, (REF,))
        told = book.told(events.WorkerExited(0, 1, CRASH, "signal 11"))
        assert SendHeartbeat(book.node.slots, (REF,)) in told


class TestDelivery:
    def test_a_result_of_an_earlier_life_is_delivered(self):
        book = Playbook().on(
            events.Kept(REF, has_video=True),
            Connect((NOT_STARTED,), (), (REF,), draining=False),
            StartWorker(0, 1),
        )
        book.on(events.Welcomed(5.0), UploadVideo(REF)).on(events.VideoUploaded(REF), SendResult(REF))

    def test_a_video_that_the_hub_misses_is_uploaded_again_after_a_wait(self):
        book = stored(rendering())
        book.told(events.VideoUploaded(REF))
        book.on(events.Acknowledged(REF, events.Verdict.VIDEO_MISSING)).quiet(0.9)
        book.after(0.1).on(TICK, UploadVideo(REF)).on(events.VideoUploaded(REF), SendResult(REF))

    def test_a_result_without_an_answer_is_sent_again(self):
        book = stored(rendering(Terms(resend_s=15)))
        book.on(events.VideoUploaded(REF), SendResult(REF)).quiet(14.9).after(0.1).on(TICK, SendResult(REF))

    @pytest.mark.parametrize("verdict", [events.Verdict.SUPERSEDED, events.Verdict.UNKNOWN])
    def test_a_result_that_nobody_wants_is_forgotten(self, verdict: events.Verdict):
        stored(rendering()).on(events.Acknowledged(REF, verdict), ForgetResult(REF))

    def test_a_video_of_a_job_that_has_ended_is_reported_without_it_and_forgotten(self):
        book = stored(rendering()).on(events.VideoUnwanted(REF), SendResult(REF))
        book.on(events.Acknowledged(REF, events.Verdict.SUPERSEDED), ForgetResult(REF))

    def test_uploads_are_tried_again_with_growing_waits(self):
        book = stored(rendering())
        for wait in (1, 2, 4):
            book.on(events.UploadFailed(REF, refused=False, detail="cut")).quiet(wait - 0.1)
            book.told(events.WorkerAlive(0, 1, 0))
            book.after(0.1).on(TICK, UploadVideo(REF))

    def test_a_video_refused_again_and_again_ends_as_a_failed_transfer(self):
        book = stored(rendering(Terms(upload_refusals=2)))
        book.on(events.UploadFailed(REF, refused=True, detail="too large")).after(1).on(TICK, UploadVideo(REF))
        failure = Failure(Fault.TRANSFER, "UPLOAD_REFUSED", "the hub refused the video: too large")
        book.on(events.UploadFailed(REF, refused=True, detail="too large"), StoreResult(REF, failure))

    def test_a_full_disk_costs_the_video_but_not_the_report(self):
        book = rendering()
        book.told(events.WorkerRendered(0, 1, "job/1", b"report"))
        failure = Failure(Fault.TRANSFER, "RESULT_NOT_KEPT", "the node could not keep the video: no space")
        book.on(events.StoringFailed(REF, "no space"), StoreResult(REF, failure))
        book.on(events.StoringFailed(REF, "no space"), SendResult(REF))

    def test_inputs_that_cannot_be_had_fail_the_attempt(self):
        failure = Failure(Fault.TRANSFER, "INPUT_CORRUPT", "bytes do not match")
        book = ready()
        book.told(events.Assigned(WORK))
        book.on(events.InputsFailed(REF, failure), StoreResult(REF, failure))
        assert slot_state(book) is SlotState.READY


class TestCheckpoints:
    """States of a long render go to the hub, the newest one, without taking the line from anything else."""

    @staticmethod
    def kept(done: int, ref: Ref = REF) -> events.WorkerCheckpointed:
        return events.WorkerCheckpointed(0, 1, str(ref), done, 10)

    @staticmethod
    def rendering() -> Playbook:
        book = rendering()
        book.told(events.Welcomed(5.0, takes_checkpoints=True))
        return book

    def test_a_state_is_sent_at_once_and_a_newer_one_takes_the_place_of_one_that_waits(self):
        book = self.rendering()
        book.on(self.kept(1), SendCheckpoint(REF, 1, 10))
        book.on(self.kept(2)).on(self.kept(3)).after(2)
        book.on(events.CheckpointSent(REF))  # it took 2 s
        book.quiet(17.9)
        book.after(0.2).on(TICK, SendCheckpoint(REF, 3, 10))
        book.after(100).on(events.WorkerAlive(0, 1, ticks=1))
        book.on(events.CheckpointSent(REF))

    def test_a_hub_that_knows_nothing_of_states_gets_none(self):
        rendering().on(self.kept(1)).quiet(10)

    def test_one_that_was_made_during_a_cut_is_sent_after_it(self):
        book = self.rendering()
        book.told(events.SessionEnded("cut", jitter=0.5))
        book.on(self.kept(1)).after(0.1).on(self.kept(2))
        told = book.told(events.Welcomed(5.0, takes_checkpoints=True))
        assert SendCheckpoint(REF, 2, 10) in told

    def test_nothing_is_sent_of_what_is_being_stopped_or_is_over(self):
        book = self.rendering()
        book.on(events.CancelRequested(REF), CancelRender(0, 1, REF)).on(self.kept(1))
        book = self.rendering()
        book.told(self.kept(1))
        book.told(events.WorkerRendered(0, 1, str(REF), b""))
        book.on(events.CheckpointSent(REF)).on(self.kept(2))

    def test_a_state_that_is_kept_is_a_sign_of_life(self):
        book = rendering(Terms(stall_timeout_s=20, silence_timeout_s=1000))
        for done in range(5):
            book.after(15).on(self.kept(done))


class TestProbesOfTheHub:
    ASKED = events.ProbeWished("p", 0)
    CLIP = events.WorkerProbed(0, 1, 2.5, "p", "digest")

    def test_a_free_slot_renders_the_clip_and_is_as_fast_as_that_was(self):
        book = ready().on(self.ASKED, Probe(0, 1, "p"))
        assert slot_state(book) is SlotState.READY
        book.on(self.CLIP, SendProbed("p", 0, Clip(2.5, "digest")))
        assert book.node.slots[0].realtime_factor == 2.5

    def test_work_goes_first(self):
        book = ready().on(self.ASKED, Probe(0, 1, "p"))
        answer = SendProbed("p", 0, declined("slot 0 has got work"))
        book.on(events.Assigned(WORK), CancelProbe(0, 1, "p"), answer, FetchInputs(WORK))
        cancelled = Failure(Fault.INTERNAL, "CANCELLED", "cancelled")
        book.on(events.WorkerFailed(0, 1, "p", cancelled)).on(
            events.InputsReady(REF), Render(0, 1, WORK), SendStarted(REF)
        )

    def test_a_slot_that_cannot_says_why(self):
        rendering().on(self.ASKED, SendProbed("p", 0, declined("slot 0 is busy")))
        book = ready().on(self.ASKED, Probe(0, 1, "p"))
        book.on(events.ProbeWished("q", 0), SendProbed("q", 0, declined("slot 0 is busy")))
        why = declined("there is no slot 7; the node has 1, counted from 0")
        book.on(events.ProbeWished("r", 7), SendProbed("r", 7, why))
        starting = Playbook()
        starting.told(TICK)
        starting.told(events.Welcomed(5.0))
        starting.on(self.ASKED, SendProbed("p", 0, declined("slot 0 is not ready")))
        starting.told(events.StopRequested())

    def test_a_clip_that_is_wrong_ends_its_worker(self):
        wrong = Failure(Fault.BROKEN_OUTPUT, "OUTPUT_BROKEN", "the mouth hardly moves")
        book = ready().on(self.ASKED, Probe(0, 1, "p"))
        killed = KillWorker(0, 1, "could not render the probe clip: the mouth hardly moves")
        book.on(events.WorkerFailed(0, 1, "p", wrong), SendProbed("p", 0, wrong), killed)

    def test_a_worker_that_dies_or_hangs_in_it_is_told(self):
        crash = Failure(Fault.CRASH, "WORKER_CRASHED", "the worker died: signal 11")
        book = ready().on(self.ASKED, Probe(0, 1, "p"))
        book.on(events.WorkerExited(0, 1, CRASH, "signal 11"), SendProbed("p", 0, crash))
        terms = Terms(probe_timeout_s=20)
        late = "did not render the probe clip within 20 s"
        hung = Failure(Fault.TIMEOUT, "WORKER_HUNG", f"the worker {late}")
        book = ready(terms).on(self.ASKED, Probe(0, 1, "p"))
        book.after(20).on(TICK, SendProbed("p", 0, hung), KillWorker(0, 1, late))

    def test_no_answer_is_sent_into_a_cut(self):
        book = ready().on(self.ASKED, Probe(0, 1, "p"))
        book.told(events.SessionEnded("cut", jitter=1.0))
        book.on(self.CLIP)


class TestGameDays:
    TERMS = Terms(plays_faults=True)

    def test_a_fault_begins_ends_by_itself_and_is_told_meanwhile(self):
        book = ready(self.TERMS)
        told = book.told(events.FaultWished(GameDayFault.HEAT, 60.0))
        assert told[0] == BeginFault(GameDayFault.HEAT, 60.0)
        assert told[1].faults == ((GameDayFault.HEAT, 60.0),)
        book.after(10).on(TICK)
        for _ in range(5):
            book.after(9.9).on(events.WorkerAlive(0, 1, 0))
        told = book.after(0.5).told(TICK)
        assert told[0] == EndFault(GameDayFault.HEAT)
        assert told[1].faults == ()

    def test_it_is_ended_or_begun_anew_when_told(self):
        book = ready(self.TERMS).on(events.FaultWished(GameDayFault.SLOW, 5.0), BeginFault(GameDayFault.SLOW, 5.0))
        book.after(4).on(events.FaultWished(GameDayFault.SLOW, 5.0), BeginFault(GameDayFault.SLOW, 5.0))
        book.after(4).on(TICK)
        book.on(events.FaultWished(GameDayFault.SLOW, 0.0), EndFault(GameDayFault.SLOW))
        book.on(events.FaultWished(GameDayFault.SLOW, 0.0)).after(9).on(TICK)

    def test_nobody_calls_the_hub_over_a_cut_line(self):
        book = ready(self.TERMS).on(events.FaultWished(GameDayFault.CUT, 20.0), BeginFault(GameDayFault.CUT, 20.0))
        book.told(events.SessionEnded("cut", jitter=0.0))
        book.after(19).on(TICK)
        told = book.after(1).told(TICK)
        assert [type(one) for one in told] == [EndFault, Connect]

    def test_where_it_is_not_allowed_nothing_happens(self):
        ready().on(events.FaultWished(GameDayFault.CUT, 20.0))


class TestLeaving:
    def test_an_idle_agent_leaves_at_once(self):
        ready().on(events.StopRequested(), SendDraining("the agent is stopping"), Exit()).on(TICK)

    def test_what_runs_is_finished_and_delivered_first(self):
        book = rendering().on(events.StopRequested(), SendDraining("the agent is stopping"))
        assert book.node.slots[0].state is SlotState.BUSY
        book.told(events.WorkerRendered(0, 1, "job/1", b"report"))
        book.on(events.ResultStored(REF), UploadVideo(REF)).on(events.VideoUploaded(REF), SendResult(REF))
        book.on(events.Acknowledged(REF, events.Verdict.COMMITTED), ForgetResult(REF), Exit())

    def test_what_is_not_finished_in_time_is_handed_back(self):
        book = rendering(Terms(drain_timeout_s=20, silence_timeout_s=1000))
        book.on(events.StopRequested(), SendDraining("the agent is stopping"))
        book.quiet(19.9).after(0.1).on(TICK, CancelRender(0, 1, REF))
        cancelled = Failure(Fault.INTERNAL, "CANCELLED", "cancelled")
        handed_back = declined("the agent stopped before the end")
        book.on(events.WorkerFailed(0, 1, "job/1", cancelled), StoreResult(REF, handed_back))
        book.on(events.ResultStored(REF), SendResult(REF))
        book.on(events.Acknowledged(REF, events.Verdict.COMMITTED), ForgetResult(REF), Exit())

    def test_a_second_request_hands_back_at_once(self):
        book = rendering().on(events.StopRequested(), SendDraining("the agent is stopping"))
        book.on(events.StopRequested(), CancelRender(0, 1, REF))

    def test_a_hub_that_is_not_there_is_not_waited_for_long(self):
        book = stored(rendering(Terms(flush_timeout_s=10)))
        book.told(events.SessionEnded("cut", jitter=1.0))
        book.on(events.StopRequested()).after(5).told(TICK)
        book.told(events.SessionEnded("refused", jitter=1.0))
        book.after(5).on(TICK, Exit())

    def test_a_dead_worker_is_not_started_again_and_free_slots_are_not_offered(self):
        book = rendering(Terms(slots=2))
        book.told(events.StopRequested())
        book.on(events.WorkerExited(1, 1, CRASH, "signal 11")).quiet(5)
        book.told(events.WorkerAlive(0, 1, 0))
        (beat,) = [one for one in book.after(5).told(TICK) if isinstance(one, SendHeartbeat)]
        assert [view.state for view in beat.slots] == [SlotState.BUSY, SlotState.BACKOFF]


def test_refs_read_as_the_operator_writes_them():
    assert str(Ref("a1", 2)) == "a1/2"

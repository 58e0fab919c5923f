"""Training knows when its job ends: it leaves in time, gets on with every attempt, and ends as if never stopped."""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_training import made as made
from test_training import outputs, plan_of, run

from stainfree import checkpoints, deadline, files, training
from stainfree.deadline import RESERVE_SECONDS, Deadline
from stainfree.errors import OutOfTimeError

Made = tuple[Path, Path]


class Clock:
    """Time that passes by a second whenever someone looks: training looks once after each step."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def attempts(train: Callable[[Deadline], None], *, seconds: float) -> list[str]:
    """Call `train` anew, with `seconds` each time, until it ends well; return what the other attempts said."""
    said = []
    for _ in range(100):
        try:
            train(Deadline(RESERVE_SECONDS + seconds, Clock()))
        except OutOfTimeError as error:
            said.append(str(error))
        else:
            return said
    raise AssertionError("never done")


class TestDeadline:
    def test_it_is_near_when_another_piece_could_end_too_late(self) -> None:
        now = 0.0
        limit = Deadline(RESERVE_SECONDS + 100, clock=lambda: now)
        now = 30.0  # a piece of 30 s: others of 30 s may begin until 70
        assert not limit.is_near()
        now = 60.0
        assert not limit.is_near()
        now = 71.0
        assert limit.is_near()

    def test_what_came_before_the_work_is_no_piece_of_it(self) -> None:
        now = 0.0
        limit = Deadline(RESERVE_SECONDS + 100, clock=lambda: now)
        now = 60.0
        limit.begin()
        now = 70.0
        assert not limit.is_near()

    def test_without_one_there_is_always_time(self) -> None:
        assert not Deadline(None, clock=lambda: 1e12).is_near()


class TestOfJob:
    @pytest.fixture
    def squeue(self, tmp_path: Path) -> Path:
        """A `squeue` that writes down how it is called, and answers with what stands in `answer`."""
        path = tmp_path / "squeue"
        path.write_text(f'#!/bin/sh\necho "$SLURM_TIME_FORMAT $*" > {tmp_path}/called\ncat {tmp_path}/answer\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return tmp_path

    def test_outside_of_a_job_nobody_ends_the_work(self) -> None:
        assert deadline.of_job({"PATH": "/nowhere"}) is None

    def test_new_slurm_tells_it_in_the_environment(self) -> None:
        assert deadline.of_job({"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "1800000000"}) == 1_800_000_000

    @pytest.mark.parametrize(
        ("array", "asked"),
        [({}, "7"), ({"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}, "5_2")],
    )
    def test_older_slurm_is_asked(self, squeue: Path, array: dict[str, str], asked: str) -> None:
        (squeue / "answer").write_text("1800000000\n")
        assert deadline.of_job({"SLURM_JOB_ID": "7", "PATH": f"{squeue}:/usr/bin:/bin", **array}) == 1_800_000_000
        assert (squeue / "called").read_text().split() == ["%s", "--noheader", f"--jobs={asked}", "--format=%e"]

    def test_a_job_without_a_limit_has_no_end(self, squeue: Path) -> None:
        (squeue / "answer").write_text("NONE\n")
        assert deadline.of_job({"SLURM_JOB_ID": "7", "PATH": f"{squeue}:/usr/bin:/bin"}) is None

    def test_where_slurm_does_not_answer_training_goes_on_with_a_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert deadline.of_job({"SLURM_JOB_ID": "7", "PATH": str(tmp_path)}) is None
        assert "squeue does not tell when job 7 ends" in caplog.text


class TestTraining:
    def test_stopped_again_and_again_it_ends_the_same(self, made: Made, tmp_path: Path) -> None:
        undisturbed = run(made, tmp_path / "a" / "out", plan_of("cnn3"))
        out, work = tmp_path / "b" / "out", tmp_path / "b" / "work"

        def train(limit: Deadline) -> None:
            training.train(*made, out, plan=plan_of("cnn3"), work=work, deadline=limit)

        said = attempts(train, seconds=9)
        at = [int(step) for line in said for step in re.findall(r"stopped at step (\d+) of at most 20, saved", line)]
        assert len(at) == len(said) >= 2
        assert at == [at[0] * (k + 1) for k in range(len(at))]
        assert said[0].startswith("cnn3/inv_weighted fold 0 seed 0: the job's time ends: stopped at step")
        assert said[0].endswith("; the next attempt goes on there")
        assert outputs(out) == undisturbed
        assert not list(work.iterdir())

    def test_every_attempt_makes_a_step_however_late_it_begins(self, made: Made, tmp_path: Path) -> None:
        plan = plan_of("cnn3")

        def train(limit: Deadline) -> None:
            training.train(*made, tmp_path / "out", plan=plan, work=tmp_path / "work", deadline=limit)

        said = attempts(train, seconds=-1000)
        assert len(said) == 20
        assert said[6].endswith(
            "stopped at step 7 of at most 20, saved; the next attempt goes on there; "
            "no more than 1 step fitted into this attempt: give it more time"
        )
        assert outputs(tmp_path / "out") == run(made, tmp_path / "undisturbed", plan)

    def test_between_parts_it_leaves_too(self, made: Made, tmp_path: Path) -> None:
        plan = plan_of("cnn3", seeds=(0, 1))

        def train(limit: Deadline) -> None:
            training.train(*made, tmp_path / "out", plan=plan, work=tmp_path / "work", deadline=limit)

        # 20 steps and a look after them: time for one part, and none to begin the next.
        assert attempts(train, seconds=23.5) == [
            "cnn3/inv_weighted: the job's time ends: 1 of 2 parts are done and saved; the next attempt goes on there"
        ]
        assert outputs(tmp_path / "out") == run(made, tmp_path / "undisturbed", plan)

    def test_a_deadline_far_away_changes_nothing(self, made: Made, tmp_path: Path) -> None:
        plan, far = plan_of("cnn3"), Deadline(time.time() + 10_000)
        training.train(*made, tmp_path / "out", plan=plan, work=tmp_path / "work", deadline=far)
        assert outputs(tmp_path / "out") == run(made, tmp_path / "undisturbed", plan)


class TestPace:
    """A checkpoint takes no more than 2 % of the time."""

    @pytest.fixture
    def now(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """The time, to set; writing a checkpoint takes 3 seconds of it."""
        now = [0.0]

        def save(path: Path, tensors: object, values: object) -> None:
            path.write_bytes(b"12345")
            now[0] += 3.0

        monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: now[0])
        monkeypatch.setattr(checkpoints, "save", save)
        return now

    def test_a_slow_write_puts_the_next_one_off(self, now: list[float], tmp_path: Path) -> None:
        pace = checkpoints.Pace(60.0)
        now[0] = 59.0
        assert not pace.is_due()
        now[0] = 60.0
        assert pace.is_due()
        pace.save(tmp_path / "checkpoint", {}, {})
        now[0] = 63.0 + 149.0
        assert not pace.is_due()
        now[0] = 63.0 + 150.0
        assert pace.is_due()
        pace.save(tmp_path / "checkpoint", {}, {})
        assert (pace.n_written, pace.n_bytes, pace.spent) == (2, 10, 6.0)

    def test_a_quick_write_does_not(self, now: list[float], tmp_path: Path) -> None:
        pace = checkpoints.Pace(1000.0)
        pace.save(tmp_path / "checkpoint", {}, {})
        now[0] = 3.0 + 999.0
        assert not pace.is_due()
        now[0] = 3.0 + 1000.0
        assert pace.is_due()

    def test_one_after_every_step_is_given_to_whoever_asks(self, now: list[float], tmp_path: Path) -> None:
        pace = checkpoints.Pace(0.0)
        pace.save(tmp_path / "checkpoint", {}, {})
        assert pace.is_due()


def test_results_tell_what_checkpoints_took(made: Made, tmp_path: Path) -> None:
    run(made, tmp_path / "out", plan_of("cnn3", checkpoint_seconds=0.0))
    told = files.read_json(tmp_path / "out" / "model.json")["parts"][0]["checkpoints"]
    assert told["written"] == 20
    assert told["bytes"] > 20 * 4 * 14_181
    assert told["seconds"] > 0

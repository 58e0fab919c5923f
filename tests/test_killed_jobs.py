"""Killed on a real Slurm, in every way that a cluster has: what follows ends as if nothing had happened."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import copy_project, missing, snakemake
from sandbox import Sandbox, missing_packages
from test_kills import trainings
from test_training import outputs

TRAINING = Path("results/simulated/espinosa/holdout/cnn3/inv_weighted")
PREDICTIONS = str(TRAINING / "predictions.parquet")
AT_A_TIME = 4
LONGEST_WAIT = 240.0
"""Seconds until something that is waited for counts as not happening."""


class Cluster:
    """A Slurm of its own, a project, and the snakemake that waits there for a training of some seconds."""

    def __init__(self, slurm: Sandbox, project: Path) -> None:
        self.slurm = slurm
        self.project = project
        self.log = project / "run.log"
        self.run: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the snakemake."""
        with self.log.open("ab") as log:
            self.run = subprocess.Popen(
                [sys.executable, "-m", "snakemake", "--profile", "slurm", PREDICTIONS],
                cwd=self.project, env=self.environment, stdout=log, stderr=subprocess.STDOUT,
                # Tests that a shell runs in the background inherit that Ctrl-C is ignored.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip

    def finish(self) -> str:
        """Wait until it ends well; return all that it said."""
        assert self.run is not None
        status = self.run.wait(timeout=LONGEST_WAIT)
        assert status == 0, self.said()
        return self.said()

    def stop(self) -> None:
        """End what a failed test may leave."""
        for process in (self.run, *trainings(self.project)):
            if process is not None:
                process.kill()

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.slurm.environment}

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def ask(self, *command: str) -> str:
        """Run one of Slurm's commands."""
        return subprocess.run(
            command, env=self.environment, stdout=subprocess.PIPE, text=True, check=True, timeout=60
        ).stdout

    def jobs(self) -> list[dict[str, str]]:
        """What Slurm says of every job there has been, in their order."""
        lines = self.ask("scontrol", "--oneliner", "show", "job").splitlines()
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines if line.startswith("JobId")]

    def states(self) -> list[str]:
        """How the jobs stand."""
        return [job["JobState"] for job in self.jobs()]

    def wait(self, done: Callable[[], object], what: str) -> None:
        """Wait for something to happen while the snakemake runs."""
        assert self.run is not None
        end = time.monotonic() + LONGEST_WAIT
        while not done():
            assert self.run.poll() is None, f"ended before {what}:\n{self.said()}"
            assert time.monotonic() < end, f"waited in vain for {what}:\n{self.said()}"
            time.sleep(0.05)

    def training(self) -> psutil.Process:
        """Wait until a training has written a checkpoint; return its process."""
        found: list[psutil.Process] = []

        def in_the_middle() -> bool:
            found.extend(process for process in trainings(self.project) if process.create_time() < self.saved_at())
            return bool(found)

        self.wait(in_the_middle, "a checkpoint")
        return found[0]

    def saved_at(self) -> float:
        """When the last checkpoint was written, in seconds since 1970; 0 where there is none."""
        written = [0.0]
        for path in self.project.glob("work/checkpoints/*/fold*/checkpoint.safetensors"):
            with suppress(FileNotFoundError):  # the training has just ended
                written.append(path.stat().st_mtime)
        return max(written)

    def change(self, file: str, old: str, new: str) -> None:
        """Change the project before it starts."""
        path = self.project / file
        text = path.read_text()
        assert text.count(old), old
        path.write_text(text.replace(old, new))


# --- what can happen to a job: each makes it happen to the training, and checks how Slurm saw it


def cancelled(cluster: Cluster) -> None:
    cluster.start()
    cluster.training()
    cluster.ask("scancel", cluster.jobs()[0]["JobId"])
    cluster.finish()
    assert cluster.states() == ["CANCELLED", "COMPLETED"]


def at_its_deadline(cluster: Cluster) -> None:
    """A minute is the shortest limit that Slurm knows, so the work is held up in the middle for most of it."""
    cluster.change("workflow/rules/train.smk", "get_runtime(240)", "get_runtime(1)")
    cluster.start()
    training = cluster.training()
    with suppress(psutil.NoSuchProcess):  # where a mere start takes most of the minute
        training.suspend()
        began = datetime.fromisoformat(cluster.jobs()[0]["StartTime"])
        cluster.wait(lambda: datetime.now() > began + timedelta(seconds=30), "most of the minute")
        training.resume()
    assert re.search(r"the job's time ends: stopped at step \d+ of at most \d+, saved", cluster.finish())
    assert cluster.states() == ["FAILED", "COMPLETED"]
    assert [job["TimeLimit"] for job in cluster.jobs()] == ["00:01:00", "00:02:00"]


def over_its_time(cluster: Cluster) -> None:
    """A training that hangs cannot leave in time; nor does it know of a limit that was lowered since."""
    cluster.start()
    cluster.training().suspend()
    cluster.ask("scontrol", "update", f"JobId={cluster.jobs()[0]['JobId']}", "TimeLimit=1")
    cluster.finish()
    assert cluster.states() == ["TIMEOUT", "COMPLETED"]
    assert cluster.jobs()[1]["TimeLimit"] == "08:00:00"


def over_its_memory(cluster: Cluster) -> None:
    """Slurm looks once a second, so the job is over before it has begun to work."""
    cluster.change("workflow/rules/train.smk", "get_memory(4000)", "get_memory(450)")
    cluster.start()
    # In Slurm's log of the job, which is shown with the step's own.
    assert "Exceeded job memory limit" in cluster.finish()
    *failed, last = cluster.states()
    assert last == "COMPLETED"
    assert set(failed) <= {"FAILED", "OUT_OF_MEMORY"}
    assert [job["MinMemoryNode"] for job in cluster.jobs()] == ["450M", "900M", "1350M"][: len(failed) + 1]
    assert failed


def without_its_slurmd(cluster: Cluster) -> None:
    """The job's processes outlive the daemon; Slurm gives the node up and puts the job back into its queue."""
    cluster.start()
    training = cluster.training()
    training.suspend()  # or it could be done before Slurm notices
    os.kill(cluster.slurm.pid("gpu1"), signal.SIGKILL)
    cluster.wait(lambda: cluster.jobs()[0]["Restarts"] == "1", "Slurm to give the node up")
    assert training.is_running()
    training.resume()
    cluster.slurm.start_daemon("gpu1")
    cluster.finish()
    assert cluster.states() == ["COMPLETED"]


def drained(cluster: Cluster) -> None:
    """Jobs on a drained node go on; those put back wait until it is there again."""
    cluster.start()
    training = cluster.training()
    cluster.ask("scontrol", "update", "NodeName=gpu1", "State=DRAIN", "Reason=maintenance")
    at = time.time()
    cluster.wait(lambda: cluster.saved_at() > at, "another checkpoint on the drained node")
    assert training.is_running()
    cluster.ask("scontrol", "requeue", cluster.jobs()[0]["JobId"])
    cluster.wait(lambda: not training.is_running(), "its end")
    cluster.wait(lambda: cluster.states() == ["PENDING"], "the job in the queue")
    cluster.ask("scontrol", "update", "NodeName=gpu1", "State=RESUME")
    cluster.finish()
    assert cluster.states() == ["COMPLETED"]


def preempted(cluster: Cluster) -> None:
    cluster.start()
    training = cluster.training()
    urgent = ["sbatch", "--partition=urgent", "--nodelist=gpu1", "--gpus=2", f"--cpus-per-task={os.cpu_count()}"]
    cluster.ask(*urgent, "--output=/dev/null", "--wrap=sleep 3")
    cluster.wait(lambda: not training.is_running(), "it to make room")
    cluster.finish()
    assert [job["Partition"] for job in cluster.jobs()] == ["gpu", "urgent"]
    assert cluster.states() == ["COMPLETED", "COMPLETED"]
    assert cluster.jobs()[0]["Restarts"] == "1"


def without_its_snakemake(cluster: Cluster) -> None:
    """The job goes on by itself: the one command before the next start ends it and clears the lock."""
    cluster.start()
    training = cluster.training()
    assert cluster.run is not None
    cluster.run.kill()
    cluster.run.wait()
    assert cluster.states() == ["RUNNING"]
    told = subprocess.run(
        [sys.executable, "-m", "stainfree.restart"],
        cwd=cluster.project, env=cluster.environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert told.endswith("Jobs of it that were still in Slurm and are cancelled: 1.\n")
    assert not training.is_running()
    cluster.start()
    cluster.finish()
    assert cluster.states() == ["CANCELLED", "COMPLETED"]


def interrupted(cluster: Cluster) -> None:
    """Ctrl-C is no kill: snakemake cancels its job and leaves no lock."""
    cluster.start()
    cluster.training()
    assert cluster.run is not None
    cluster.run.send_signal(signal.SIGINT)
    assert cluster.run.wait(timeout=LONGEST_WAIT) != 0
    while cluster.states() == ["COMPLETING"]:
        time.sleep(0.1)
    assert cluster.states() == ["CANCELLED"]
    cluster.start()
    cluster.finish()
    assert cluster.states() == ["CANCELLED", "COMPLETED"]


EVENTS = {
    event.__name__: event
    for event in (
        over_its_time,
        without_its_slurmd,
        at_its_deadline,
        over_its_memory,
        drained,
        preempted,
        without_its_snakemake,
        cancelled,
        interrupted,
    )
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which one training was made in peace."""
    if lacking := missing_packages():
        missing(f"to test on a real Slurm: apt-get install {' '.join(lacking)}")
    project = copy_project(tmp_path_factory.mktemp("undisturbed") / "project")
    config = yaml.safe_load((project / "config.yaml").read_text())
    config["datasets"] = {"simulated": {"n_cells": 420}}
    config["training"]["checkpoint_seconds"] = 0.1
    espinosa = config["experiments"]["espinosa"]
    del espinosa["study"], espinosa["explain"]
    espinosa["models"] = [{"cnn3": {"recipe": {"epochs": 60, "patience": 1000}}}]
    espinosa["losses"] = ["inv_weighted"]
    (project / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    snakemake(project, PREDICTIONS)
    return project


@pytest.fixture(scope="module")
def happening(
    undisturbed: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[Cluster]]]:
    """All events that are tested, a few at a time, each on a cluster of its own: most of it is waiting."""
    chosen = [item.callspec.params["event"] for item in request.session.items if item.path == request.path]
    folder = tmp_path_factory.mktemp("events")

    def happen(event: str) -> Cluster:
        project = folder / event
        shutil.copytree(undisturbed, project, symlinks=True)
        shutil.rmtree(project / TRAINING)
        with Sandbox(folder / f"slurm-{event}") as slurm:
            cluster = Cluster(slurm, project)
            try:
                EVENTS[event](cluster)
            finally:
                cluster.stop()
        return cluster

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {event: pool.submit(happen, event) for event in chosen}


@pytest.mark.cluster
@pytest.mark.parametrize("event", EVENTS)
def test_a_killed_job_ends_as_if_undisturbed(
    event: str, happening: dict[str, Future[Cluster]], undisturbed: Path
) -> None:
    cluster = happening[event].result()
    assert outputs(cluster.project / TRAINING) == outputs(undisturbed / TRAINING)
    if event != "over_its_memory":  # which ends it before it has begun
        log = Path("logs", "train", *TRAINING.parts[1:]).with_suffix(".log")
        assert re.search(r"going on at step [1-9]", (cluster.project / log).read_text())
    assert not [path for path in (cluster.project / "work").rglob("*") if path.is_file()]

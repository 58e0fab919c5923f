"""The workflow on a real Slurm: which job ran where, with what, in Slurm's own records."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from conftest import ROOT, configure, copy_project, snakemake
from sandbox import ACCOUNT, Sandbox, SandboxError, missing_packages

from snakemake_executor_plugin_slurm_steady import Executor

RESULTS = Path("results/simulated/espinosa")
LOCAL = {"index", "espinosa"}


def settle(project: Path, *changes: tuple[str, str]) -> None:
    """Fill in the site settings, as a user would: the account, and what else differs."""
    path = project / "slurm" / "config.yaml"
    text = path.read_text()
    for old, new in (("  # slurm_account: mylab", f"  slurm_account: {ACCOUNT}"), *changes):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)


def jobs_of(slurm: Sandbox, project: Path) -> pd.DataFrame:
    """Slurm's records of the jobs that came from a project, a row each, with the rule as the plugin noted it."""
    told = subprocess.run(
        ["scontrol", "--oneliner", "show", "job"],
        env={**os.environ, **slurm.environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    records = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in told.splitlines()]
    jobs = pd.DataFrame([record for record in records if record.get("WorkDir") == str(project)])
    jobs["rule"] = jobs["Comment"].str.extract(r"^rule_(\w+?)(?:_wildcards_.*)?$")
    return jobs


def planned_jobs(project: Path, target: str) -> dict[str, int]:
    """How many jobs of each rule a dry run plans."""
    told = snakemake(project, target, "--dry-run").stdout
    table = told.split("\ntotal ")[0].rsplit("job ", 1)[1]
    return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


def asked(resource: str) -> dict[str, int]:
    """What each rule asks of a resource at its first attempt, as the rules' files say."""
    text = "".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
    pattern = rf"^ *rule (\w+):$(?:(?!^ *rule ).)*?{resource}=get_\w+\((\d+)\)"
    return {name: int(value) for name, value in re.findall(pattern, text, re.MULTILINE | re.DOTALL)}


@pytest.fixture(scope="module")
def finished_on_slurm(slurm: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which espinosa was built through Slurm, on few simulated cells."""
    project = copy_project(tmp_path_factory.mktemp("cluster") / "project")
    configure(project)
    settle(project)
    (project / "plan.json").write_text(json.dumps(planned_jobs(project, "espinosa")))
    run = snakemake(project, "--profile", "slurm", "espinosa", environment=slurm.environment)
    (project / "first-run.log").write_text(run.stdout)
    return project


@pytest.mark.cluster
class TestEspinosa:
    def test_every_step_was_a_job_of_its_own_but_the_trivial_ones(
        self, slurm: Sandbox, finished_on_slurm: Path
    ) -> None:
        planned = json.loads((finished_on_slurm / "plan.json").read_text())
        assert planned["train"] == 9
        assert set(planned) >= LOCAL
        jobs = jobs_of(slurm, finished_on_slurm)
        assert Counter(jobs["rule"]) == {rule: n for rule, n in planned.items() if rule not in LOCAL}
        assert set(jobs["JobState"]) == {"COMPLETED"}
        assert (finished_on_slurm / RESULTS / "report.html").is_file()
        assert (finished_on_slurm / "results" / "index.html").is_file()

    def test_training_held_a_gpu_and_nothing_else_was_on_the_gpu_node(
        self, slurm: Sandbox, finished_on_slurm: Path
    ) -> None:
        jobs = jobs_of(slurm, finished_on_slurm)
        training = jobs["rule"] == "train"
        assert set(jobs.loc[training, "Partition"]) == {"gpu"}
        assert set(jobs.loc[training, "NodeList"]) == {"gpu1"}
        assert jobs.loc[training, "TRES"].str.contains("gres/gpu=1").all()
        assert set(jobs.loc[~training, "Partition"]) == {"cpu"}
        assert set(jobs.loc[~training, "NodeList"]) == {"cpu1"}
        assert not jobs.loc[~training, "TRES"].str.contains("gpu").any()

    def test_each_job_had_the_memory_time_and_cores_of_its_rule(self, slurm: Sandbox, finished_on_slurm: Path) -> None:
        memory, minutes = asked("mem_mb"), asked("runtime")
        assert len(set(memory.values())) > 2
        for _, job in jobs_of(slurm, finished_on_slurm).iterrows():
            assert job["MinMemoryNode"] == f"{memory[job['rule']]}M", job["rule"]
            assert pd.Timedelta(job["TimeLimit"]) == pd.Timedelta(minutes=minutes[job["rule"]]), job["rule"]
            assert job["NumCPUs"] == "1"
            assert job["Account"] == ACCOUNT
            assert job["Requeue"] == "1"

    def test_results_are_those_of_a_run_without_slurm(self, finished_on_slurm: Path, tmp_path: Path) -> None:
        project = tmp_path / "project"
        shutil.copytree(finished_on_slurm, project, symlinks=True)
        training = RESULTS / "holdout/fc/unweighted"
        snakemake(project, "--force", str(training / "predictions.parquet"))
        for name in ("predictions.parquet", "weights/fold0-seed0.safetensors"):
            assert filecmp.cmp(project / training / name, finished_on_slurm / training / name, shallow=False), name

    def test_logs_of_jobs_that_succeeded_are_gone(self, finished_on_slurm: Path) -> None:
        assert not list((finished_on_slurm / "logs" / "slurm").rglob("*.log"))


@pytest.mark.cluster
class TestSiteSettings:
    def test_a_site_without_gpus_trains_in_the_cpu_partition(
        self, slurm: Sandbox, finished_on_slurm: Path, tmp_path: Path
    ) -> None:
        project = tmp_path / "project"
        shutil.copytree(finished_on_slurm, project, symlinks=True)
        path = project / "slurm" / "config.yaml"
        path.write_text(path.read_text().replace("gpu: 1", "gpu: 0").replace("partition: gpu", "partition: cpu"))
        target = str(RESULTS / "holdout/fc/unweighted/model.json")
        snakemake(project, "--profile", "slurm", "--force", target, environment=slurm.environment)
        (job,) = jobs_of(slurm, project).to_dict("records")
        assert (job["rule"], job["Partition"], job["NodeList"]) == ("train", "cpu", "cpu1")
        assert "gpu" not in job["TRES"]

    def test_parts_go_out_as_one_job_array(self, slurm: Sandbox, finished_on_slurm: Path, tmp_path: Path) -> None:
        project = tmp_path / "project"
        shutil.copytree(finished_on_slurm, project, symlinks=True)
        config = yaml.safe_load((project / "config.yaml").read_text())
        config["experiments"]["espinosa"]["seeds"] = [0, 1, 2]
        (project / "config.yaml").write_text(yaml.safe_dump({**config, "fan_out": True}, sort_keys=False))
        target = RESULTS / "holdout/fc/unweighted/predictions.parquet"
        arguments = ("--profile", "slurm", "--slurm-steady-array-jobs", "train_part", str(target))
        snakemake(project, *arguments, environment=slurm.environment)
        jobs = jobs_of(slurm, project)
        parts = jobs[jobs["rule"] == "train_part"]
        assert sorted(parts["ArrayTaskId"]) == ["1", "2", "3"]
        assert parts["ArrayJobId"].nunique() == 1
        assert set(parts["Partition"]) == {"gpu"}
        assert parts["TRES"].str.contains("gres/gpu=1").all()
        assert jobs.loc[jobs["rule"] == "join_parts", "Partition"].tolist() == ["cpu"]
        assert sorted(pd.read_parquet(project / target)["seed"].unique()) == [0, 1, 2]

    @pytest.mark.parametrize(
        ("old", "new", "reason"),
        [
            ("slurm_partition: cpu", "slurm_partition: cqu", "invalid partition specified: cqu"),
            (f"slurm_account: {ACCOUNT}", "slurm_account: lap", "The given account lap appears to be invalid"),
        ],
    )
    def test_a_wrong_one_is_told_in_slurms_words(
        self, slurm: Sandbox, project: Path, old: str, new: str, reason: str
    ) -> None:
        configure(project)
        settle(project, (old, new))
        run = snakemake(project, "--profile", "slurm", "data/simulated.h5", check=False, environment=slurm.environment)
        assert run.returncode != 0
        assert reason in run.stdout
        assert not (project / "data" / "simulated.h5").exists()

    def test_a_failing_step_is_told_in_its_own_words(self, slurm: Sandbox, project: Path) -> None:
        configure(project, datasets={"mine": {"kind": "folder", "path": "own", "channels": ["BF"], "bit_depth": 8}})
        settle(project)
        (project / "own" / "G1").mkdir(parents=True)
        (project / "own" / "G1" / "1.png").write_bytes(b"no picture")
        arguments = ("--profile", "slurm", "--retries", "0", "data/mine.h5")
        run = snakemake(project, *arguments, check=False, environment=slurm.environment)
        assert run.returncode != 0
        assert re.search(r"Error: .*own/G1/1\.png", run.stdout)


def test_the_plan_is_told_where_there_is_no_slurm(project: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "env", "which", "uname", "git"):
        (tools / name).symlink_to(shutil.which(name) or name)
    environment = {"PATH": str(tools)}
    run = snakemake(project, "--profile", "slurm", "--dry-run", "espinosa", environment=environment)
    assert run.stdout.count("Train ") == 9


def test_looks_for_finished_jobs_come_at_a_steady_pace() -> None:
    executor = object.__new__(Executor)
    executor.workflow = SimpleNamespace(remote_execution_settings=SimpleNamespace(seconds_between_status_checks=3))
    executor.next_seconds_between_status_checks = 180
    assert executor.next_seconds_between_status_checks == 3


class TestSandbox:
    def test_a_folder_that_holds_other_files_is_left_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sandbox.missing_packages", lambda **_: [])
        (tmp_path / "thesis.txt").write_text("mine")
        with pytest.raises(SandboxError, match="holds other files: name an empty or a new folder"):
            Sandbox(tmp_path).start()
        Sandbox(tmp_path).stop()
        assert (tmp_path / "thesis.txt").read_text() == "mine"

    def test_missing_packages_are_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sandbox._find", lambda program: None)
        with pytest.raises(SandboxError, match=r"apt-get install munge slurm-wlm$"):
            Sandbox(tmp_path / "new").start()
        assert missing_packages(accounting=True) == ["mariadb-server", "munge", "slurm-wlm", "slurmdbd"]
        assert not (tmp_path / "new").exists()

    @pytest.mark.cluster
    def test_one_that_runs_is_not_started_again(self, slurm: Sandbox) -> None:
        with pytest.raises(SandboxError, match=r"is in use \(munged, .*stop that sandbox first"):
            Sandbox(slurm.folder).start()
        assert slurm.node_states() == {"cpu1": "idle", "gpu1": "idle"}

    @pytest.mark.cluster
    def test_a_killed_daemon_comes_back(self, tmp_path: Path) -> None:
        with Sandbox(tmp_path / "sandbox") as sandbox:
            os.kill(sandbox.pid("cpu1"), 9)
            while sandbox.pid("cpu1"):
                pass
            sandbox.start_daemon("cpu1")
            told = subprocess.run(
                ["srun", "--partition=cpu", "hostname"],
                env={**os.environ, **sandbox.environment},
                capture_output=True,
                text=True,
                check=True,
            )
            assert told.stdout.strip()
        assert not (tmp_path / "sandbox").exists()

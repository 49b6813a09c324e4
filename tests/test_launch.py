"""What the launchers would run, and when they run it again; `test_processes.py` runs it."""

import subprocess
import sys

import pytest

from launch import commands
from launch.__main__ import main
from launch.local import Job, again, environment
from launch.run import main as run
from r3p.errors import FINISHED, REFUSED, STOPPED

TRAIN = ["--config", "configs/portrait.py:small", "--workdir", "/shared/my run"]


def printed(capsys, *arguments):
    assert main([*arguments, "--dry-run", "--", *TRAIN]) == 0
    return capsys.readouterr().out


def test_dry_runs(capsys):
    lines = printed(capsys, "local", "--processes", "2").splitlines()
    assert len(lines) == 2 and "--processes 2 --process 1 -- --config" in lines[1] and "'/shared/my run'" in lines[1]
    assert "--process" not in printed(capsys, "local")
    line = printed(capsys, "tpu", "--name", "slice", "--zone", "us-west4-a", "--project", "p")
    assert line.startswith(
        "gcloud compute tpus tpu-vm ssh slice --zone us-west4-a --project p --worker=all '--command=cd"
    )
    line = printed(capsys, "gke", "--cluster", "c", "--name", "n", "--device", "v5litepod-16", "--image", "i")
    assert "--max-restarts=3" in line and "launch/run.py --auto -- --config" in line


def test_the_batch_script_is_one(capsys, tmp_path):
    script = printed(capsys, "slurm", "--nodes", "2", "--gpus", "4", "--sbatch=--partition=gpu", "--restarts", "2")
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=4\n" in script and "#SBATCH --partition=gpu" in script
    # srun's place is taken by a command that fails as told, scontrol's by one that says what it was told
    for status, tries in ((0, 1), (1, 3), (2, 1), (143, 1)):
        folder = tmp_path / str(status)
        folder.mkdir()
        for name, body in (
            ("srun", f'echo "$@" >> {folder}/tries; exit {status}'),
            ("scontrol", f'echo "$@" > {folder}/requeued'),
            ("sleep", "true"),
        ):
            (folder / name).write_text(f"#!/bin/sh\n{body}\n")
            (folder / name).chmod(0o755)
        env = {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
        done = subprocess.run(["bash"], input=script, env=env, text=True, capture_output=True, check=False)
        assert done.returncode == status and len((folder / "tries").read_text().splitlines()) == tries
        assert "--workdir /shared/my run" in (folder / "tries").read_text()
        assert (folder / "requeued").exists() == (status == STOPPED)


@pytest.mark.parametrize(
    ("statuses", "restarts", "told"),
    [
        ([FINISHED], 3, FINISHED),
        ([-9, 1, FINISHED], 3, FINISHED),
        ([REFUSED], 3, REFUSED),
        ([1, 1, 1], 2, 1),
        ([STOPPED, FINISHED], 3, FINISHED),
    ],
)
def test_restarts_are_bounded(statuses, restarts, told):
    left = list(statuses)
    assert again(lambda: left.pop(0), restarts, lambda: False, pause=0) == told
    assert not left


def test_nothing_is_restarted_when_the_end_was_asked_for():
    assert again(lambda: STOPPED, 3, lambda: True) == STOPPED


def test_processes_live_and_die_together():
    python = [sys.executable, "-S", "-c"]
    envs = [environment(None, None)] * 2
    job = Job(grace=0.2)
    assert job.run([[*python, "import time; time.sleep(60)"], [*python, "raise SystemExit(5)"]], envs) == 5
    assert job.run([[*python, ""], [*python, ""]], envs) == FINISHED


def test_devices_of_a_process(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a=1 --xla_force_host_platform_device_count=3")
    assert environment(8, None)["XLA_FLAGS"] == "--a=1 --xla_force_host_platform_device_count=8"
    assert environment(None, 2)["CUDA_VISIBLE_DEVICES"] == "2"
    assert len(commands.local(1, 0, TRAIN)) == 1


def test_half_told_is_refused(capsys):
    for arguments in (["--processes", "2"], ["--auto", "--coordinator", "a:1", "--processes", "2", "--process", "0"]):
        with pytest.raises(SystemExit):
            run([*arguments, "--", *TRAIN])
        assert "or none of them" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["local"])
    assert "nothing to train" in capsys.readouterr().err

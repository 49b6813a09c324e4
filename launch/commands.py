"""What the launchers run, as text: pure functions."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN = "launch/run.py"


def local(processes: int, port: int, train: Sequence[str], python: str = sys.executable) -> list[list[str]]:
    """One command a process; alone, it connects to nobody."""
    run = [python, str(ROOT / RUN)]
    if processes == 1:
        return [[*run, "--", *train]]
    who = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(processes)]
    return [[*run, *who, "--process", str(k), "--", *train] for k in range(processes)]


def slurm(
    train: Sequence[str],
    *,
    nodes: int,
    gpus: int,
    time: str,
    restarts: int,
    name: str,
    extra: Sequence[str],
    python: str,
) -> str:
    """A batch script: a process a GPU. Near the time limit it is told to write a checkpoint, and queues again.

    extra: further #SBATCH options, such as --partition=gpu.
    """
    options = [
        f"--job-name={name}", f"--nodes={nodes}", f"--ntasks-per-node={gpus}", f"--gpus-per-node={gpus}",
        f"--time={time}", "--signal=TERM@180", "--requeue", "--open-mode=append", *extra,
    ]  # fmt: skip
    head = "\n".join(f"#SBATCH {option}" for option in options)
    command = shlex.join([python, RUN, "--auto", "--", *train])
    return f"""#!/usr/bin/env bash
{head}
cd {shlex.quote(str(ROOT))}
for attempt in $(seq 0 {restarts}); do
  srun --kill-on-bad-exit=1 {command}
  status=$?
  case $status in
    0 | 2) exit $status ;;  # finished, or refused: another try changes nothing
    143)  # told to stop, with a checkpoint
      [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ] && scontrol requeue "$SLURM_JOB_ID"
      exit $status ;;
  esac
  echo "launch: ended with status $status, try $attempt of {restarts} more" >&2
  sleep 10
done
exit $status
"""


def tpu(train: Sequence[str], *, name: str, zone: str, project: str | None, folder: str, python: str) -> list[str]:
    """gcloud's command that trains on all machines of a Cloud TPU VM slice, in `folder` of each."""
    command = f"cd {shlex.quote(folder)} && {shlex.join([python, RUN, '--auto', '--', *train])}"
    where = ["--zone", zone, *(["--project", project] if project else [])]
    return ["gcloud", "compute", "tpus", "tpu-vm", "ssh", name, *where, "--worker=all", f"--command={command}"]


def gke(
    train: Sequence[str], *, cluster: str, name: str, device: str, image: str, restarts: int, folder: str
) -> list[str]:
    """xpk's command that makes a workload; the cluster restarts it. The image has r3p in `folder`."""
    command = f"cd {shlex.quote(folder)} && {shlex.join(['python', RUN, '--auto', '--', *train])}"
    return [
        "xpk", "workload", "create", f"--cluster={cluster}", f"--workload={name}", f"--device-type={device}",
        f"--docker-image={image}", f"--max-restarts={restarts}",
        "--restart-on-user-code-failure", "--termination-grace-period-seconds=180", f"--command={command}",
    ]  # fmt: skip

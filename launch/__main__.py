"""Starts a training run, and again from its last checkpoint when a process dies (a bounded number of times).

python -m launch local --processes 2 -- --config configs/STAGE.py:MODE --workdir DIR
python -m launch slurm --nodes 2 --gpus 8 --sbatch=--partition=gpu -- ...
python -m launch tpu --name my-slice --zone us-west4-a -- ...
python -m launch gke --cluster my-cluster --name run1 --device v5litepod-256 --image REGISTRY/r3p:1 -- ...

With --dry-run it prints what it would run. DIR has to be one folder that all machines see.
"""

import argparse
import shlex
import subprocess
import sys

from launch import commands
from launch.local import again, supervise


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m launch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)

    def kind(name: str, text: str) -> argparse.ArgumentParser:
        sub = kinds.add_parser(name, help=text, description=text)
        sub.add_argument("--dry-run", action="store_true", help="print what would be run")
        sub.add_argument("--restarts", type=int, default=3, help="how often to start again (default 3)")
        return sub

    local = kind("local", "processes on this machine")
    local.add_argument("--processes", type=int, default=1)
    local.add_argument("--devices", type=int, help="virtual CPU devices of each process")
    local.add_argument("--gpu-each", action="store_true", help="process k gets GPU k")

    slurm = kind("slurm", "a SLURM job with a process a GPU")
    slurm.add_argument("--nodes", type=int, default=1)
    slurm.add_argument("--gpus", type=int, default=8, help="of each node")
    slurm.add_argument("--time", default="24:00:00", help="limit of the job")
    slurm.add_argument("--name", default="r3p")
    slurm.add_argument(
        "--sbatch", action="append", default=[], help="a further option, such as --sbatch=--partition=gpu"
    )
    slurm.add_argument("--python", default=sys.executable, help="of the nodes")

    tpu = kind("tpu", "all machines of a Cloud TPU VM slice, through gcloud; r3p is installed there")
    tpu.add_argument("--name", required=True, help="of the slice")
    tpu.add_argument("--zone", required=True)
    tpu.add_argument("--project")
    tpu.add_argument("--folder", default="r3p", help="of r3p on the machines")
    tpu.add_argument("--python", default="python3", help="of the machines")

    gke = kind("gke", "a workload on a GKE cluster, through xpk; needs an image with r3p")
    gke.add_argument("--cluster", required=True)
    gke.add_argument("--name", required=True, help="of the workload")
    gke.add_argument("--device", required=True, help="such as v5litepod-256 or h100-80gb-8")
    gke.add_argument("--image", required=True)
    gke.add_argument("--folder", default="/r3p", help="of r3p in the image")

    for sub in (local, slurm, tpu, gke):
        sub.add_argument("train", nargs=argparse.REMAINDER, help="-- and the arguments of python -m r3p.train")
    args = parser.parse_args(argv)
    args.train = args.train[1:] if args.train[:1] == ["--"] else args.train
    if not args.train:
        parser.error("nothing to train: end with -- --config configs/STAGE.py:MODE --workdir DIR")
    return args


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = parse(argv)
    if args.kind == "local":
        if args.dry_run:
            for line in commands.local(args.processes, 12345, args.train):
                print(shlex.join(line))
            return 0
        return supervise(
            args.processes,
            args.train,
            devices=args.devices,
            gpu_each=args.gpu_each,
            restarts=args.restarts,
            commands=commands.local,
        )
    if args.kind == "slurm":
        script = commands.slurm(
            args.train,
            nodes=args.nodes,
            gpus=args.gpus,
            time=args.time,
            restarts=args.restarts,
            name=args.name,
            extra=args.sbatch,
            python=args.python,
        )
        if args.dry_run:
            print(script, end="")
            return 0
        return subprocess.run(["sbatch"], input=script, text=True, check=False).returncode
    if args.kind == "tpu":
        line = commands.tpu(
            args.train, name=args.name, zone=args.zone, project=args.project, folder=args.folder, python=args.python
        )
    else:
        line = commands.gke(
            args.train,
            cluster=args.cluster,
            name=args.name,
            device=args.device,
            image=args.image,
            restarts=args.restarts,
            folder=args.folder,
        )
    if args.dry_run:
        print(shlex.join(line))
        return 0
    if args.kind == "gke":  # the cluster restarts it
        return subprocess.run(line, check=False).returncode
    return again(lambda: subprocess.run(line, check=False).returncode, args.restarts, lambda: False)


if __name__ == "__main__":
    sys.exit(main())

"""One process of a training run: connects to the others, then trains.

python launch/run.py -- --config C --workdir W            alone, as `python -m r3p.train`
python launch/run.py --auto -- ...                        under SLURM, on a TPU pod, on GKE: the cluster says who is who
python launch/run.py --coordinator HOST:PORT --processes N --process I -- ...

The working directory has to be one folder that all machines see, such as a mounted file store or bucket.
"""

import argparse
import os
import sys
import traceback
from pathlib import Path

# When started as a script; r3p may not be installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status, that of `r3p.train`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--auto", action="store_true", help="the cluster's environment tells everything")
    parser.add_argument("--coordinator", help="HOST:PORT of the first process")
    parser.add_argument("--processes", type=int, help="how many there are")
    parser.add_argument("--process", type=int, help="which one this is")
    parser.add_argument(
        "--heartbeat", type=int, default=100, help="seconds after which a silent process counts as dead"
    )
    parser.add_argument("train", nargs=argparse.REMAINDER, help="-- and the arguments of python -m r3p.train")
    args = parser.parse_args(argv)
    told = sum(x is not None for x in (args.coordinator, args.processes, args.process))
    if told not in (0, 3) or (args.auto and told):
        parser.error("give --auto, or all of --coordinator, --processes and --process, or none of them")

    import jax

    # Before anything else asks for devices.
    if args.auto:
        jax.distributed.initialize(heartbeat_timeout_seconds=args.heartbeat)
    elif args.coordinator:
        jax.distributed.initialize(
            args.coordinator, args.processes, args.process, heartbeat_timeout_seconds=args.heartbeat
        )

    from r3p.errors import FINISHED, STOPPED
    from r3p.train import main as train

    try:
        status = train(args.train[1:] if args.train[:1] == ["--"] else args.train)
    except Exception:
        traceback.print_exc()
        status = 1
    if status not in (FINISHED, STOPPED) and jax.distributed.is_initialized():
        # The others may wait for this process in a collective operation, and an orderly end would wait for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())

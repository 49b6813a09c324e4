"""How long a training step waits for its data, on this machine.

python -m benchmarks.input --config configs/portrait.py:small --set data.folder=~/r3p_data/people
python -m benchmarks.input --config configs/portrait.py:small --set data.folder=~/r3p_data/people --step-ms 50 200

First batches are drawn as fast as they come. Then steps of several lengths are acted (the processor is left alone
meanwhile, as while an accelerator computes), and the time spent waiting is what a real run logs as `input_wait`.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import jax
import numpy as np

from data_pipelines.ahead import read_ahead
from r3p import sharding
from r3p.errors import InputError
from r3p.stages import Batch
from r3p.train import load_config, load_stage


def placed(batches: Iterator[Batch], mesh: Any) -> Iterator[Batch]:
    """Batches on the devices, as the training loop reads them."""
    for batch in batches:
        yield sharding.put_batch(batch, mesh)


def drawing(batches: Iterator[Batch], mesh: Any, steps: int) -> tuple[float, float]:
    """Mean seconds until a batch has been drawn, and until it lies on the devices; the first one is left out."""
    next(batches)
    drawn = on_device = 0.0
    for _ in range(steps):
        started = time.perf_counter()
        batch = next(batches)
        drawn += time.perf_counter() - started
        jax.block_until_ready(sharding.put_batch(batch, mesh))
        on_device += time.perf_counter() - started
    return drawn / steps, on_device / steps


def waits(batches: Iterator[Batch], mesh: Any, steps: int, seconds: float, ahead: int) -> np.ndarray:
    """Seconds that each of `steps` steps of so many seconds waits for its batch; the first one is left out."""
    found, reader = [], read_ahead(placed(batches, mesh), ahead)
    try:
        next(reader)
        for _ in range(steps):
            time.sleep(seconds)
            started = time.perf_counter()
            next(reader)
            found.append(time.perf_counter() - started)
    finally:
        reader.close()
    return np.array(found)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="configs/STAGE.py:MODE")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a config field")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--step-ms", type=float, nargs="+", help="lengths of steps; default: about what drawing takes")
    args = parser.parse_args(argv)
    try:
        config = load_config(args.config, args.set)
        stage, mesh = load_stage(config), sharding.make_mesh(config.mesh)
        with sharding.using(mesh):
            drawn, on_device = drawing(stage.batches(0), mesh, args.steps)
            size = sum(x.nbytes for x in next(islice(stage.batches(0), 1)).values())
            print(f"{config.stage}: batches of {config.batch_size}, {size / 2**20:.2f} MiB")
            print(f"drawing  {1e3 * drawn:9.2f} ms a batch, {config.batch_size / max(drawn, 1e-9):9.1f} examples/s")
            print(f"sending  {1e3 * (on_device - drawn):9.2f} ms a batch")
            print(f"{'step':>12} {'wait, mean':>12} {'wait, most':>12} {'input_wait':>11}, {config.read_ahead} ahead")
            lengths = args.step_ms or [1e3 * on_device * share for share in (0.5, 1.0, 1.5, 3.0)]
            for milliseconds in lengths:
                seconds = milliseconds / 1e3
                wait = waits(stage.batches(0), mesh, args.steps, seconds, config.read_ahead)
                share = wait.sum() / (wait.sum() + args.steps * seconds)
                mean, most = 1e3 * wait.mean(), 1e3 * wait.max()
                print(f"{milliseconds:9.1f} ms {mean:9.2f} ms {most:9.2f} ms {100 * share:9.1f} %", flush=True)
    except InputError as error:
        print(f"input: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

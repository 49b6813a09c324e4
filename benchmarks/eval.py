"""How fast `r3p eval` scores, and that its memory does not grow with a clip's length, on this machine.

python -m benchmarks.eval --clip CLIP.mp4
python -m benchmarks.eval --clip CLIP.mp4 --frames 100 1000 --groups pixels,face

The clip is played to and fro until it has the wanted number of frames, and scored against itself shifted by one frame.
Each length runs in a process of its own, so that its peak of memory is its own. Times are of the processor, all
threads together: frames a second and core are frames by processor seconds, whatever else the machine does. What a
second call needs not do again (compiling) is in the first length and is told apart by scoring twice.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from r3p import compile_cache, memory, video
from r3p.errors import InputError
from r3p.evaluate import clip, harness
from r3p.evaluate.manifest import Row
from r3p.evaluate.networks import Networks


def played(path: Path, count: int, size: int, shift: int = 0) -> Iterator[np.ndarray]:
    """`count` frames of a short clip, to and fro, from frame `shift` on."""
    from r3p.evaluate.observe import scaled

    frames = [scaled(f, size) for f in islice(video.read_frames(path), 60)]
    there_and_back = frames + frames[-2:0:-1]
    return islice(cycle(there_and_back), shift, shift + count)


def measure(path: Path, count: int, size: int, every: int, groups: tuple[str, ...]) -> dict[str, float]:
    """Of this process: processor and wall seconds a frame, and the peak of memory."""
    compile_cache.enable()
    networks = Networks()
    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for name, shift in (("truth", 0), ("output", 1)):
            made[name] = Path(folder) / f"{name}.mp4"
            writer: video.VideoWriter | None = None
            for frame in played(path, count, size, shift):
                writer = writer or video.VideoWriter(made[name], frame.shape[1::-1])
                writer.write(frame)
            assert writer is not None
            writer.close()
        paths = dict.fromkeys(("source", "driver", "audio", "truth")) | {"truth": made["truth"]}
        row = Row("clip", "same", **paths, identity="p", output="output.mp4")
        short = Path(folder) / "short.mp4"  # compiles what is not compiled
        writer = video.VideoWriter(short, next(played(path, 1, size)).shape[1::-1])
        for frame in played(path, 2 * every + 2, size):
            writer.write(frame)
        writer.close()
        warm = Row("warm", "same", **(paths | {"truth": short}), identity="p", output="short.mp4")
        clip.score(warm, short, networks, clip.References(networks, size, every=every), groups)
        began, wall = time.process_time(), time.monotonic()
        references = clip.References(networks, size, every=every)
        clip.score(row, made["output"], networks, references, groups)
        return {
            "frames": count,
            "processor_ms": 1e3 * (time.process_time() - began) / count,
            "wall_ms": 1e3 * (time.monotonic() - wall) / count,
            "peak_gib": memory.peak(),
        }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True, help="a video of a face")
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 1000], help="lengths (100 1000)")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--every", type=int, default=harness.EVERY, help="networks look at 1 frame of so many")
    parser.add_argument("--groups", default=",".join(g for g in clip.GROUPS if g != "sync"))
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.here:
        print(json.dumps(measure(args.clip, args.frames[0], args.size, args.every, tuple(args.groups.split(",")))))
        return 0
    print(f"{'frames':>7} {'ms a frame':>11} {'frames/s and core':>18} {'wall, ms':>9} {'peak, GiB':>10}")
    for count in args.frames:
        given = ["--clip", str(args.clip), "--frames", str(count), "--size", str(args.size), "--groups", args.groups]
        command = [sys.executable, "-m", "benchmarks.eval", *given, "--every", str(args.every), "--here"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            return done.returncode
        found = json.loads(done.stdout.splitlines()[-1])
        each, wall, peak = (found[k] for k in ("processor_ms", "wall_ms", "peak_gib"))
        print(f"{count:7} {each:11.1f} {1e3 / each:18.2f} {wall:9.1f} {peak:10.2f}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        sys.exit(2)

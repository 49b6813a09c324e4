"""Preparation of clips as an Apache Beam pipeline: on this machine, or by Dataflow, Flink or Spark.

What is done with a clip is `data_pipelines.prepare.Stager`, as without Beam, in a process beside Beam's own worker: a
clip that kills it, or takes too long, costs itself alone. Staged clips lie in a folder that all machines see, where the
process that started the pipeline finds them; a pipeline that is started again does what is not there.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from data_pipelines import workers
from data_pipelines.prepare import Drive, is_staged, reject
from data_pipelines.sources import Source
from r3p.errors import InputError

LOOK_S = 0.5  # between looks for staged clips


class StageClip(beam.DoFn):
    """Stages or rejects each clip; gives its name."""

    def __init__(self, staged: str, make: Callable[..., Any], settings: tuple[Any, ...], limit_s: float):
        self._staged, self._make, self._settings, self._limit_s = staged, make, settings, limit_s

    def setup(self) -> None:
        """Of each of Beam's workers."""
        self._work = workers.Guarded(self._make, (Path(self._staged), *self._settings), self._limit_s)

    def process(self, source: Source) -> Iterator[str]:
        """A clip that another try of this work has staged is left alone."""
        staged = Path(self._staged)
        if not is_staged(staged, source.name):
            _, died = self._work(source)
            if died is not None:
                reject(staged, source.name, *died.split(": ", 1))
        yield source.name

    def teardown(self) -> None:
        """Ends the worker's process."""
        self._work.close()


def _options(runner: str, arguments: Sequence[str], processes: int) -> PipelineOptions:
    if runner == "direct":
        # Threads: each only waits for its process. A process that dies would take Beam's direct runner with it.
        arguments = [
            "--runner=FnApiRunner", f"--direct_num_workers={processes}", "--direct_running_mode=multi_threading",
            *arguments,
        ]  # fmt: skip
    else:
        arguments = [f"--runner={runner}", *arguments]
    return PipelineOptions(list(arguments))


def by_beam(runner: str, arguments: Sequence[str], processes: int, limit_s: float = 3600.0) -> Drive:
    """runner: direct, with so many processes of this machine; or the name of another of Beam's."""

    def drive(
        sources: Sequence[Source], staged: Path, make: Callable[..., Any], settings: tuple[Any, ...]
    ) -> Iterator[None]:
        if not sources:
            return
        failed: list[BaseException] = []

        def run() -> None:
            try:
                with beam.Pipeline(options=_options(runner, arguments, processes)) as pipeline:
                    clips = pipeline | "clips" >> beam.Create(list(sources)) | "spread" >> beam.Reshuffle()
                    _ = clips | "stage" >> beam.ParDo(StageClip(str(staged.absolute()), make, settings, limit_s))
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        left = list(sources)
        while left:
            running = thread.is_alive()
            known = len(left)
            left = [s for s in left if not is_staged(staged, s.name)]
            yield from [None] * (known - len(left))
            if not running:
                break
            time.sleep(LOOK_S)
        thread.join()
        if failed:
            raise InputError(
                f"Beam's {runner} runner stopped with {len(left)} clips left ({_first_line(failed[0])}): "
                "see its messages above, and run the same command again to go on"
            ) from failed[0]

    return drive


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

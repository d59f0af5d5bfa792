"""Preparation on an Apache Beam runner: its workers make the record files, on any machines.

The machines share the folders of the videos and of the prepared data under the same paths. Beam
moves no pixels: it says which worker makes which record file, and who takes over from a worker
that is lost.
"""

import contextlib
import difflib
import io
import itertools
import logging as std_logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from molo_jax.data.store import assignments, dask_cluster
from molo_jax.data.store.assignments import Assignment, Run, carry_out
from molo_jax.data.store.shards import Shard
from molo_jax.errors import MoloError, UsageError

_AGAIN = "Record files that are whole are kept; the same command goes on from there"
# Seconds between two looks for finished record files, and for workers.
_LOOK, _LOOK_FOR_WORKERS = 1.0, 20.0
# How a runner that only hands text on quotes the error of a worker.
_QUOTED = re.compile(r"molo_jax\.errors\.MoloError: (.+)")
_WHILE = re.compile(r" \[while running [^]]*\].*")


class Beam:
    """A Beam runner with its options.

    Args:
        runner: its name.
        options: of the runner, as `name=value` with or without dashes before it.

    Raises:
        MoloError: Beam or what the runner needs is not installed.
        UsageError: there is no such runner, or it does not take these options.
    """

    def __init__(self, runner: str, options: Sequence[str] = ()):
        self._flag, self._runner = f"--beam_runner={runner}", runner
        self._options = [f"--{option.lstrip('-')}" for option in options]
        self._cluster: dask_cluster.Cluster | None = None
        if not runner:
            raise UsageError("--beam_runner is empty; expected a runner, such as DaskRunner")
        if dask_cluster.is_named(runner):
            _import(("apache_beam", "dask", "distributed"), self._flag, "dask")
            self._runner = dask_cluster.RUNNER
            self._cluster = dask_cluster.Cluster.of(self._options)
            self._options = list(self._cluster.options)
        else:
            _import(("apache_beam",), self._flag, "beam")
        _discard(self._pipeline())

    def check(self) -> None:
        """Checks that the cluster is there and can do the work, where its runner can be asked.

        Raises:
            MoloError: saying what is missing, and where.
        """
        if self._cluster:
            self._cluster.check()

    def make(
        self,
        shards: Sequence[Shard],
        folder: Path,
        *,
        workers: int,
        seconds: float,
        advance: Callable[[int], object],
    ) -> None:
        """Makes record files; returns when all are there.

        Args:
            shards: the record files.
            folder: where they are made.
            workers: processes that decode for each record file; 0 for one.
            seconds: time limit of a video.
            advance: called with the number of videos that are done.

        Raises:
            MoloError: a record file cannot be made, or the runner has failed.
        """
        if not shards:
            return
        run = Run.new(folder, workers=workers, seconds=seconds)
        work = [Assignment.of(shard, run) for shard in shards]
        with run.going_on(), self._watched(work, advance):
            self._carry_out(work)
        lacking = [each.shard.path for each in work if not each.is_done()]
        if lacking:
            raise MoloError(
                f"{self._flag}: {len(lacking)} of {len(work)} record files were not made, such as"
                f" {lacking[0]}; do the workers write into the same folder? {_AGAIN}"
            )

    def _pipeline(self) -> Any:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        said = io.StringIO()
        try:
            # Beam's parser prints how it is used, and ends the process.
            with contextlib.redirect_stderr(said):
                options = PipelineOptions(flags=self._options)
                options.get_all_options(retain_unknown_options=True)
                return beam.Pipeline(runner=self._runner, options=options)
        except SystemExit:
            reason = said.getvalue().strip().splitlines()[-1].partition("error: ")[2]
            raise UsageError(f"{self._flag}: --beam_pipeline_options: {reason}") from None
        except Exception as error:
            close = difflib.get_close_matches(self._runner.lower(), ["daskrunner"], cutoff=0.8)
            meant = "; did you mean DaskRunner?" if close else ""
            raise UsageError(f"{self._flag}: {' '.join(str(error).split())}{meant}") from error

    def _carry_out(self, work: Sequence[Assignment]) -> None:
        import apache_beam as beam

        pipeline = self._pipeline()
        _ = (
            pipeline
            | "Record files" >> beam.Create(work)
            | "Spread" >> beam.Reshuffle()
            | "Prepare" >> beam.Map(carry_out)
        )
        result = None
        # Its direct runner prints a trace before it hands on what a worker has raised.
        log = std_logging.getLogger("apache_beam.runners.common")
        level = log.level
        log.setLevel(std_logging.CRITICAL)
        try:
            result = pipeline.run()
            state = result.wait_until_finish()
            if self._cluster:
                # Without its scheduler, Beam's runner ends as if all were done.
                self._cluster.check_open(result.client)
        except MoloError as error:
            # Beam adds the step of its pipeline.
            raise MoloError(_WHILE.sub("", str(error))) from error
        except Exception as error:
            raise MoloError(self._explained(error)) from error
        finally:
            log.setLevel(level)
            _discard(pipeline)
            # Beam leaves Dask's connection open, and with it what waits in the cluster.
            if self._cluster and result is not None:
                with contextlib.suppress(Exception):
                    result.client.close()
        if state not in ("DONE", None):
            raise MoloError(f"{self._flag}: the runner ended in the state {state}. {_AGAIN}")

    def _explained(self, error: Exception) -> str:
        quoted = _QUOTED.findall(str(error))
        if quoted:
            return _WHILE.sub("", quoted[-1])
        if sentence := dask_cluster.explained(error):
            return f"{self._flag}: {sentence}. {_AGAIN}"
        reason = " ".join(str(error).split())[:400]
        return f"{self._flag}: {type(error).__name__}: {reason}. {_AGAIN}"

    @contextlib.contextmanager
    def _watched(
        self, work: Sequence[Assignment], advance: Callable[[int], object]
    ) -> Iterator[None]:
        """Counts the videos of finished record files while the block runs."""
        with contextlib.ExitStack() as stack:
            stop = threading.Event()
            watchers = [threading.Thread(target=_count, args=(work, advance, stop), daemon=True)]
            workers = ""
            if self._cluster:
                connection = stack.enter_context(self._cluster.connected())
                workers = f" by {connection}"
                watchers.append(
                    threading.Thread(
                        target=connection.warn_without_workers,
                        args=(stop, _LOOK_FOR_WORKERS),
                        daemon=True,
                    )
                )
            logging.info(
                "%d record files are made%s; each counts when it is whole", len(work), workers
            )
            for watcher in watchers:
                watcher.start()
            try:
                yield
            finally:
                stop.set()
                for watcher in watchers:
                    watcher.join()


def _discard(pipeline: Any) -> None:
    """Removes the folder that Beam makes for every pipeline and leaves behind."""
    shutil.rmtree(pipeline.local_tempdir, ignore_errors=True)


def _import(modules: Sequence[str], flag: str, extra: str) -> None:
    # Beam warns of parts of Google's cloud that are not installed.
    std_logging.disable(std_logging.WARNING)
    try:
        for module in modules:
            __import__(module)
    except ImportError as error:
        raise MoloError(
            f'{flag} needs the extra {extra} ({error}): pip install "molo-jax[{extra}]"'
        ) from None
    finally:
        std_logging.disable(std_logging.NOTSET)


def _count(
    work: Sequence[Assignment], advance: Callable[[int], object], stop: threading.Event
) -> None:
    """Advances by the videos of each record file once it is finished, and after `stop` at last."""
    waiting, last = list(work), False
    while not last:
        last = stop.wait(_LOOK)
        ready = [assignments.has_manifest(each) for each in waiting]
        advance(assignments.count_of(list(itertools.compress(waiting, ready))))
        waiting = [each for each, done in zip(waiting, ready, strict=True) if not done]

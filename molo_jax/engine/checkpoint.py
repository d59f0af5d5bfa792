"""Checkpoints on disk, by orbax: written as a whole or not at all, read back bit for bit.

A checkpoint `<folder>/<step>` holds three items: `model` (parameters and batch-normalization
statistics), `optimizer` (optimizer state and step; absent where training cannot go on from it) and
`meta` (JSON). Trees are stored as nested plain dictionaries named by their paths.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Sharding

from molo_jax.engine import hosts
from molo_jax.engine.failed_writes import NotingManager, noting_handler, wait_or_raise
from molo_jax.engine.plain_trees import (
    from_plain,
    in_place_of,
    named_as,
    names_of,
    shapes_of,
    to_plain,
    without_values,
)
from molo_jax.errors import MoloError, shortened
from molo_jax.files import bytes_of, failure, failure_of_storage, write_json

_ITEMS = ("model", "optimizer")
_PARTS = "*orbax-checkpoint-tmp*/**/*"  # what orbax has written before it is complete
# Folder -> bytes of the checkpoint that this process is writing there; folders share a disk.
_IN_WRITING: dict[Path, int] = {}
# What a checkpoint says of itself, by the types of its values.
_META_TYPES = {
    **dict.fromkeys(("config", "seen", "validation"), dict),
    **dict.fromkeys(("trained_on", "validated_on", "unlogged"), list),
    "step": int,
    "val_accuracy": int | float,
}


class Checkpoints:
    """The checkpoints of one folder; the latest few are kept.

    A checkpoint is written while the training goes on; the next call of `save` waits for it. Use as
    a context manager: leaving it waits until everything is on disk.

    With several processes, all of them open the folder and call the same methods in the same order,
    and `restore` gives arrays that lie on the devices of all of them. A folder that is opened to be
    read only is different: each process reads for itself, arrays on its own devices.
    """

    def __init__(self, folder: Path, *, keep: int = 2, read_only: bool = False):
        """Opens `folder`, which need not exist.

        Args:
            folder: where the checkpoints are.
            keep: how many are kept; older ones are removed after a newer one is complete.
            read_only: neither creates the folder nor removes anything.
        """
        self.folder = folder.absolute()
        self._saved: int | None = None
        self._manager, self._read_only = None, read_only
        # The step whose checkpoint is being written.
        self._writing: int | None = None
        self._failures: list[Exception] = []
        if read_only and not self.folder.is_dir():
            return
        who = {"multiprocessing_options": self._processes()}
        options = ocp.CheckpointManagerOptions(
            **who,
            max_to_keep=None if read_only else keep,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
        )
        handlers = {item: noting_handler(self._failures, **who) for item in _ITEMS}
        handlers["meta"] = ocp.JsonCheckpointHandler(**who)
        self._manager = NotingManager(
            self._failures, self.folder, options=options, item_handlers=handlers
        )
        self._saved = self._manager.latest_step()

    def _processes(self) -> ocp.options.MultiprocessingOptions:
        """Returns who reads and writes: all processes together, or each by itself."""
        if not self._read_only or jax.process_count() == 1:
            # By its name, processes that wait for one folder are told from those of another.
            return ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=self.folder.name)
        own = jax.process_index()
        return ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error orbax may raise it once more, in other words.
        with contextlib.suppress(*([Exception] if kind else [])):
            self.close()

    def close(self) -> None:
        """Waits until everything is on disk. Leaving without it would lose the last checkpoint.

        A folder that is empty is removed.

        Raises:
            MoloError: when the last checkpoint could not be written.
        """
        if self._manager is None:
            return
        try:
            self.wait()
        except MoloError:
            # orbax raises it once more, in other words.
            with contextlib.suppress(Exception):
                self._manager.close()
            raise
        else:
            self._manager.close()
        finally:
            self._manager = None
            if not self._read_only and hosts.is_first():
                with contextlib.suppress(OSError):
                    self.folder.rmdir()

    def wait(self) -> None:
        """Waits until the checkpoint that is being written, if there is one, is on disk.

        Raises:
            MoloError: when it could not be written: there is no room, or the folder is gone.
        """
        if self._writing is None:
            return
        step = self._writing
        try:
            with self._described(step):
                wait_or_raise(self._manager.wait_until_finished, self._failures)
            self._saved = step
        finally:
            self._writing = None
            _IN_WRITING.pop(self.folder, None)

    @property
    def saved_step(self) -> int | None:
        """The step of the newest complete checkpoint; may be read by another thread."""
        writing = self._writing
        # A folder has this name when all is in it.
        complete = writing is not None and (self.folder / str(writing)).is_dir()
        return writing if complete else self._saved

    @property
    def unfinished(self) -> bool:
        """Whether a checkpoint is being written; may be read by another thread."""
        writing = self._writing
        return writing is not None and self.saved_step != writing

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint: of process 0, if all are asked."""
        if self._manager is None:
            return None
        # orbax counts the one that is being written.
        unfinished = {self._writing} - {self.saved_step}
        newest = max(set(self._manager.all_steps()) - unfinished, default=None)
        return newest if self._read_only else hosts.broadcast(newest)

    def save(
        self, step: int, *, meta: Mapping[str, Any], model: Any, optimizer: Any | None = None
    ) -> None:
        """Waits for the checkpoint before, then begins to write that of `step`.

        The arrays are copied to the host at once, or protected while they are written where the
        host computes: a step may take their memory. A checkpoint of the same step stays
        as it is: training is deterministic, so it is the same.

        Args:
            step: finished optimizer steps.
            meta: what `restore` checks and `evaluate` reports; JSON types only.
            model: tree of parameters and statistics.
            optimizer: tree of what else training needs in order to go on.

        Raises:
            MoloError: when there is no room, or the folder cannot be written; also when this was so
                for the checkpoint before.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        size = self._check_space(model, optimizer)
        items = {"model": ocp.args.StandardSave(to_plain(model))}
        if optimizer is not None:
            items["optimizer"] = ocp.args.StandardSave(to_plain(optimizer))
        items["meta"] = ocp.args.JsonSave(dict(meta))
        with self._described(step):
            saved = self._manager.save(step, args=ocp.args.Composite(**items))
        if not saved:
            raise MoloError(
                f"the checkpoint {self.describe(step)} was not saved: {self.folder} holds a later"
                " one; remove it or use another --workdir"
            )
        self._writing = step
        _IN_WRITING[self.folder] = size

    @contextlib.contextmanager
    def _described(self, step: int) -> Iterator[None]:
        """Turns what fails while a checkpoint is written into one line; removes its parts."""
        try:
            yield
        # orbax and tensorstore raise a dozen types for a folder that cannot be written.
        except Exception as error:
            self._remove_unfinished(step)
            raise MoloError(
                f"the checkpoint {self.describe(step)} cannot be saved: {failure_of_storage(error)}"
            ) from error

    def _remove_unfinished(self, step: int) -> None:
        for folder in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(folder, ignore_errors=True)

    def delete(self, step: int) -> None:
        """Removes the checkpoint of `step`."""
        self._manager.delete(step)

    def _check_space(self, *trees: Any) -> int:
        """Stops before a disk that is too full, on which orbax would fail in the background.

        Process 0 asks for all, for they write to the same disk.

        Returns the bytes of the checkpoint.

        Raises:
            MoloError: naming the room that checkpoints take, with those of other folders that are
                being written, and how much there is; also when the folder is gone.
        """
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(trees))
        if not hosts.is_first():
            return needed
        # What is on disk of them already is not free any more.
        written = ((size, bytes_of(at.glob(_PARTS))) for at, size in _IN_WRITING.items())
        others = sum(max(0, size - done) for size, done in written)
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            why = failure(error)
            raise MoloError(f"no checkpoint can be saved in {self.folder}: {why}") from error
        if free < needed + others:
            beside = f", beside {others / 2**20:.0f} MiB that are being written" if others else ""
            raise MoloError(
                f"a checkpoint in {self.folder} takes up to {needed / 2**20:.0f} MiB{beside}, and"
                f" {free / 2**20:.0f} MiB are free; make room, then run the same command again"
            )
        return needed

    def meta(self, step: int) -> dict[str, Any]:
        """Reads the JSON that was saved with the checkpoint of `step`.

        Raises:
            MoloError: when it cannot be read, or holds values of other types than were saved.
        """
        arguments = ocp.args.Composite(meta=ocp.args.JsonRestore())
        meta = self._read(step, lambda: self._manager.restore(step, args=arguments).meta)
        found = meta if isinstance(meta, dict) else {"record": meta}
        types = _META_TYPES | {"record": dict}
        for name, value in found.items():
            if not isinstance(value, types.get(name, object)):
                raise MoloError(
                    f"the checkpoint {self.describe(step)} is damaged: its {name} is"
                    f" {shortened(json.dumps(value))}; remove this folder to go on from an earlier"
                    " one or from the start"
                )
        return meta

    def replace_meta(self, step: int, meta: Mapping[str, Any]) -> None:
        """Replaces the JSON of the checkpoint of `step`; the rest of it stays as it is.

        Raises:
            OSError: when the file cannot be written; the old one is there then.
        """
        if hosts.is_first():
            # The file of orbax's JsonCheckpointHandler.
            write_json(self.folder / str(step) / "meta" / "metadata", meta, indent=None)
        hosts.barrier(f"the record of {self.describe(step)} is replaced")

    def restore(self, step: int, targets: Mapping[str, Any], sharding: Sharding) -> dict[str, Any]:
        """Reads items of the checkpoint of `step`, also one whose tensors have their former names.

        Args:
            step: which checkpoint.
            targets: for `model` and, where wanted, `optimizer` a tree of arrays of the expected
                structure and shapes; their values do not matter.
            sharding: where the arrays shall be.

        Returns:
            Trees like the targets, with the stored values.

        Raises:
            MoloError: when tensors are missing, left over, of another shape or not finite, or the
                files cannot be read.
        """
        if "optimizer" in targets and not (self.folder / str(step) / "optimizer").is_dir():
            raise MoloError(
                f"the checkpoint {self.describe(step)} has no optimizer state; training cannot go"
                " on from it"
            )
        abstract = {item: to_plain(without_values(x, sharding)) for item, x in targets.items()}
        stored = self._read(step, lambda: {item: self._tree(step, item) for item in abstract})
        named = {item: named_as(stored[item], tree) for item, tree in abstract.items()}
        for item, expected in named.items():
            self._check_shapes(step, expected, stored[item])
        arguments = {item: ocp.args.StandardRestore(tree) for item, tree in named.items()}
        found = self._read(
            step, lambda: self._manager.restore(step, args=ocp.args.Composite(**arguments))
        )
        restored = {}
        for item, target in targets.items():
            former = named[item] is not abstract[item]
            tree = in_place_of(abstract[item], found[item]) if former else found[item]
            self._check_finite(step, item, tree)
            restored[item] = from_plain(target, tree)
        return restored

    def describe(self, step: int) -> str:
        """Returns the checkpoint's path."""
        return str(self.folder / str(step))

    def _read(self, step: int, read: Any) -> Any:
        try:
            return read()
        # orbax and tensorstore raise a dozen types for files that are gone, cut off or altered.
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
            raise MoloError(
                f"the checkpoint {self.describe(step)} cannot be read"
                f" ({type(error).__name__}: {reason}); remove this folder to go on from an"
                " earlier one or from the start"
            ) from error

    def _tree(self, step: int, item: str) -> Any:
        """Reads names and shapes of the stored tensors, without the tensors."""
        return self._manager.item_metadata(step)[item].tree

    def _check_finite(self, step: int, item: str, tree: Any) -> None:
        leaves = jax.tree_util.tree_flatten_with_path(jax.device_get(tree))[0]
        broken = ["/".join(names_of(path)) for path, leaf in leaves if not _is_finite(leaf)]
        if broken:
            more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            raise MoloError(
                f"the checkpoint {self.describe(step)} is of no use: its {item} holds values that"
                f" are not finite (NaN or infinity), in {broken[0]}{more}; remove this folder to go"
                " on from an earlier one or from the start"
            )

    def _check_shapes(self, step: int, expected: Any, stored: Any) -> None:
        wanted, found = shapes_of(expected), shapes_of(stored)
        problems = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
        problems += [f"{name} is not expected" for name in sorted(found.keys() - wanted.keys())]
        problems += [
            f"{name} has shape {found[name]}, expected {wanted[name]}"
            for name in sorted(wanted.keys() & found.keys())
            if wanted[name] != found[name]
        ]
        if problems:
            more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
            raise MoloError(
                f"the checkpoint {self.describe(step)} does not fit this network:"
                f" {'; '.join(problems[:3])}{more}"
            )


def _is_finite(leaf: Any) -> bool:
    return not jnp.issubdtype(leaf.dtype, jnp.inexact) or bool(np.isfinite(leaf).all())

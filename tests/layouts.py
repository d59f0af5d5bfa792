"""A training and an evaluation in float64 on several processes and devices, as a program.

python layouts.py JOBS.json PROCESS PORT

`JOBS.json` has `processes`, `data` (the folder of `motion_data`, with bad videos), and `jobs`: each
trains in a work folder, on so many devices (0: all), and evaluates if it shall. A job may begin
with a copy of another work folder, of which only the checkpoint of one step is taken; it waits
until that folder is finished. What each process has decoded is written beside the work folder.
"""

import collections
import contextlib
import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path

import jax

STEPS, EPISODES, SAVED = 20, 8, 10
WIDTH, PATCH = 8, 8
# Seconds for the work of other processes.
PATIENCE = 600


def settings(config, data):
    """Changes a configuration to the smallest training that has everything in it."""
    config.seed = 4
    config.model.backbone = "patches"
    config.data.update(source="videos", root=f"{data}/videos", split_dir=f"{data}/splits")
    config.data.update(num_frames=2, resize=32, crop=32, workers=2, on_bad_video="skip")
    config.augment.update(flip=0.5, hue=0.1)
    config.train.update(n_way=2, n_shot=1, n_query=1, steps=STEPS, episodes_per_step=EPISODES)
    config.train.update(log_every=1, eval_every=SAVED, checkpoint_every=SAVED, val_episodes=6)
    config.optimizer.update(schedule="cosine", base_lr=1e-2, warmup_steps=2, weight_decay=1e-3)
    config.eval.update(n_way=3, shots=(1, 2), n_query=1, episodes=12, controls=("untrained",))
    config.eval.update(frame_draw="video", clip_batch=1, episode_batch=4)
    return config


def main(jobs, process, port):
    plan = json.loads(Path(jobs).read_text())
    jax.config.update("jax_enable_x64", True)
    if plan["processes"] > 1:
        jax.distributed.initialize(f"localhost:{port}", plan["processes"], process)
    for job in plan["jobs"]:
        if job.get("begins_with"):
            wait_for(Path(job["begins_with"]) / "finished")
        run(job, Path(plan["data"]), process)


def run(job, data, process):
    from molo_jax import build, evaluate, train
    from molo_jax.backbones import BACKBONES, BackboneInfo
    from molo_jax.config import base_config
    from molo_jax.engine import hosts
    from molo_jax.engine.mesh import even_devices, make_mesh

    BACKBONES["patches"] = BackboneInfo("patches", patches, WIDTH, PATCH, output="mixed")
    workdir, config = Path(job["workdir"]), settings(base_config("protonet"), data)
    if hosts.is_first():
        begin(workdir, job.get("begins_with"))
    hosts.barrier("the work folder is there")
    # In whatever order devices are listed, they are used in that of the hosts.
    used = make_mesh(even_devices(parts=EPISODES)[: job["devices"] or None][::-1])
    build.train_mesh = lambda _: used
    build.evaluation_mesh = lambda: used
    record = Record(build)
    with doubled(build, "train_preprocess"), doubled(build, "eval_preprocess"):
        training = build.training(config)
    exact = dataclasses.replace(training, initial=lambda: doubled_state(training.initial()))
    train.train(exact, workdir)
    record.end("training")
    # As a user's, the evaluation computes in float32.
    if job["evaluates"]:
        evaluate.evaluate(build.evaluation(config), workdir, True)
        record.end("evaluation")
    bad = sorted(place for place in exact.dataset.bad_places())
    record.write(workdir.with_suffix(f".{process}.json"), bad)
    hosts.barrier("the job is done")
    if hosts.is_first():
        (workdir / "finished").touch()


def patches(info, *, rngs):
    """The smallest network with batch normalizations, one behind the other."""
    from flax import nnx

    from molo_jax.nn.layers import BatchNorm

    class Patches(nnx.Module):
        def __init__(self):
            # A bias before a normalization has no gradient; rounding alone would move it.
            plain = {"use_bias": False, "rngs": rngs}
            self.project = nnx.Linear(3 * info.stride**2, info.width, **plain)
            self.mix = nnx.Linear(info.width, info.width, **plain)
            self.bn1, self.bn2 = BatchNorm(info.width), BatchNorm(info.width)

        def __call__(self, frames, **norm):
            count, height, width, _ = frames.shape
            rows, columns = height // info.stride, width // info.stride
            cut = frames.reshape(count, rows, info.stride, columns, info.stride, 3)
            cut = cut.transpose(0, 1, 3, 2, 4, 5).reshape(count, rows, columns, -1)
            y = nnx.relu(self.bn1(self.project(cut), **norm))
            return {"mixed": nnx.relu(self.bn2(self.mix(y), **norm))}

    return Patches()


def begin(workdir, before):
    """Makes a work folder, or copies another as it was at the first checkpoint."""
    if not before:
        workdir.mkdir()
        return
    shutil.copytree(before, workdir, ignore=shutil.ignore_patterns("finished", "eval_*", "bank"))
    for folder in (workdir / "checkpoints", workdir / "best"):
        shutil.rmtree(folder / str(STEPS), ignore_errors=True)


@contextlib.contextmanager
def doubled(module, name):
    """In the `with` block, what the made function returns computes in float64."""
    make = getattr(module, name)

    def made(config):
        function = make(config)
        return lambda *arrays: jax.tree.map(in_float64, function(*arrays))

    setattr(module, name, made)
    yield
    setattr(module, name, make)


def in_float64(x):
    return x.astype("float64") if x.dtype == "float32" else x


def doubled_state(state):
    def cast(x):
        # Counters of updates have the type of their sums.
        return x.astype("int64") if x.dtype == "int32" else in_float64(x)

    return dataclasses.replace(jax.tree.map(cast, state), step=state.step)


class Record:
    """What this process decodes: how often which video, and which episodes of each chunk."""

    def __init__(self, build):
        from molo_jax.data.clips import dataset

        self._parts, self._chunks = {}, []
        self._videos = collections.Counter()
        decode = self._original(dataset, "decode_clip")
        place = self._original(build, "place_episodes")

        def counted(path, *arguments, **options):
            self._videos["/".join(Path(path).parts[-2:])] += 1
            return decode(path, *arguments, **options)

        def noted(chunk, mesh):
            self._chunks.append(chunk["index"].tolist())
            return place(chunk, mesh)

        dataset.decode_clip, build.place_episodes = counted, noted

    @staticmethod
    def _original(module, name):
        """Returns the function of a module, which an earlier record may have replaced."""
        kept = f"_{name}_of_the_module"
        if not hasattr(module, kept):
            setattr(module, kept, getattr(module, name))
        return getattr(module, kept)

    def end(self, part):
        self._parts[part] = dict(self._videos)
        self._videos.clear()

    def write(self, path, bad):
        path.write_text(json.dumps({"videos": self._parts, "chunks": self._chunks, "bad": bad}))


def wait_for(path):
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.2)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

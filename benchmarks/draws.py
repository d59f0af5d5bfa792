"""Compares frames that are drawn anew in every episode with K draws of each video.

    python benchmarks/draws.py --workdir=runs/demo --config=configs/synthetic.py

The network of the work folder is evaluated on one set of episodes again and again, each time with
other draws of the frames: drawn anew for every episode and video (frame_draw=episode, the official
rule), or with K draws of each video, of which an episode shows one (frame_draw=video, draws=K). So
the episodes, their classes and their videos are the same everywhere, and the spread is that of the
choice of frames alone. Printed are the mean accuracy, its standard deviation from one choice to
another, and how many choices there were.
"""

import dataclasses
import functools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from molo_jax import cli
from molo_jax.config_checks import validate

_CONFIG = cli.define_config()
flags.adopt_module_key_flags(cli)
_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Work folder of a trained network.")
_DRAWS = flags.DEFINE_list("draws", ["1", "2", "5"], "Numbers of draws K, with commas.")
_CHOICES = flags.DEFINE_integer(
    "choices", 4, "Choices of frames of the largest K; smaller K have as many as fit.", 2
)
_ANEW = flags.DEFINE_integer("anew", 3, "Choices of frames that are drawn anew.", 2)
_EPISODES = flags.DEFINE_integer("episodes", 1_000, "Episodes of each number of shots.", 2)


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark with the parsed flags."""
    del argv
    config = _CONFIG.value
    validate(config)
    draws = sorted(int(each) for each in _DRAWS.value)
    print("| frames | shots | accuracy, % | spread, points | choices |\n|---|---|---|---|---|")
    for name, shot, values in _accuracies(config, draws):
        mean, spread = 100 * np.mean(values), 100 * np.std(values, ddof=1)
        print(f"| {name} | {shot} | {mean:.2f} | {spread:.2f} | {len(values)} |", flush=True)


def _accuracies(config: ConfigDict, draws: Sequence[int]) -> Iterator[tuple[str, int, list[float]]]:
    """Yields for each way to draw frames and number of shots the accuracy of each choice."""
    from molo_jax import build
    from molo_jax.banks import filled_bank, key_of
    from molo_jax.evaluated import load_network
    from molo_jax.evaluator import Evaluator

    config = ConfigDict(config.to_dict())
    config.eval.frame_draw, config.eval.ways = "episode", ()
    evaluation = build.evaluation(config)
    data = evaluation.data
    network = load_network(evaluation.init_from, Path(_WORKDIR.value), evaluation.method, data.mesh)
    weights = network.params, network.batch_stats
    for shot in config.eval.shots:
        values = []
        for choice in range(_ANEW.value):
            cell = config.eval.n_way, shot
            sampler = _other_frames(data.samplers[cell], choice)
            one = Evaluator(dataclasses.replace(data, samplers={cell: sampler}), network.graphdef)
            found = one.scores(*weights, episodes=_EPISODES.value, title=f"anew, choice {choice}")
            values.append(found[cell].accuracy)
        yield "drawn anew", shot, values
    evaluator = Evaluator(data, network.graphdef)
    key = key_of(
        data,
        network.settings,
        *weights,
        dataset=evaluation.dataset,
        clips=evaluation.clips,
        seed=evaluation.seed,
    )
    most = draws[-1] * _CHOICES.value
    with tempfile.TemporaryDirectory() as folder:
        bank = filled_bank(
            Path(folder), evaluator, data, *weights, key, draws=most, title=f"{most} draws"
        )
        for count in draws:
            for shot in config.eval.shots:
                sampler = data.samplers[config.eval.n_way, shot]
                values = [
                    _accuracy(evaluator, weights, data, bank, sampler, count, choice)
                    for choice in range(most // count)
                ]
                yield f"{count} of each video", shot, values


def _other_frames(sampler: Any, choice: int) -> Any:
    """Returns the same episodes with other draws of the frames."""
    from molo_jax.data.clips.episodes import INDEX_LIMIT, ClipRequest, EpisodeSampler

    class OtherFrames(EpisodeSampler):
        def clip(
            self, class_position: int, video_position: int, index: int | None = None
        ) -> ClipRequest:
            other = index + choice * (INDEX_LIMIT // 64)
            return super().clip(class_position, video_position, other)

    return OtherFrames(
        sampler.class_sizes,
        sampler.seed,
        sampler.split_name,
        sampler.n_way,
        sampler.n_shot,
        sampler.n_query,
        sampler.num_frames,
        "episode",
    )


def _accuracy(
    evaluator: Any, weights: Any, data: Any, bank: Any, sampler: Any, count: int, choice: int
) -> float:
    """Evaluates with the draws `choice * count` and following."""
    from molo_jax.data.clips.episodes import EpisodeSampler
    from molo_jax.sweep import Sweep, sweep_scores

    class Choice(Sweep):
        def rows(self, cell: tuple[int, int], bank: Any) -> np.ndarray:
            return super().rows(cell, bank) + choice * count * bank.videos

    shown = EpisodeSampler(
        sampler.class_sizes,
        sampler.seed,
        sampler.split_name,
        sampler.n_way,
        sampler.n_shot,
        sampler.n_query,
        sampler.num_frames,
        "video",
        draws=count,
    )
    cell = shown.n_way, shown.n_shot
    sweep = Choice.draw({cell: shown}, _EPISODES.value, data.dataset.is_bad)
    match = functools.partial(_match, evaluator, weights)
    return sweep_scores(
        sweep,
        bank,
        evaluator.model(*weights),
        match,
        budget=data.cache_mib * 2**20,
        batch=data.episode_batch,
        title=f"{count} draws, choice {choice}",
    )[cell].accuracy


def _match(evaluator: Any, weights: Any, way: int, *arrays: Any) -> Any:
    return evaluator.match(way, *weights, *arrays)


if __name__ == "__main__":
    cli.run(main)

"""A method is one class beside its settings and one line in a table; so is a backbone.

Both are made here, outside the package, and go through everything that the package does: they are
chosen on the command line, trained, saved, rebuilt from the checkpoint alone, evaluated and drawn.
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib.image import imread

from molo_jax import build, evaluate, figure, train
from molo_jax.backbones import BACKBONES, BackboneInfo, backbone_info
from molo_jax.cli import load_config
from molo_jax.config import base_config
from molo_jax.config_checks import validate
from molo_jax.config_help import help_of_keys
from molo_jax.engine.metrics import read_metrics
from molo_jax.errors import MoloError, UsageError
from molo_jax.methods.base import Method, check_clips, cross_entropy, join_sets, split_sets
from molo_jax.methods.episode import Training
from molo_jax.methods.settings import METHODS, Settings, setting, weight
from molo_jax.stored_config import changes
from molo_jax.weights.networks import abstract_network, filled, load_weights

ROOT = Path(__file__).parents[1]
SIDE, CROP, PATCH, WIDTH = 32, 16, 8, 6
MEAN, STD = 0.25, 0.5


class Patches(nnx.Module):
    """The backbone: one linear map of every patch of pixels, without batch normalization."""

    def __init__(self, info, *, rngs):
        self.side = info.stride
        self.project = nnx.Linear(3 * info.stride**2, info.width, rngs=rngs)

    def __call__(self, frames, *, set_sizes, train):
        count, height, width, channels = frames.shape
        rows, columns = height // self.side, width // self.side
        patches = frames.reshape(count, rows, self.side, columns, self.side, channels)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(count, rows, columns, -1)
        return {"patches": self.project(patches)}


class NearestMean(Method):
    """The method: the nearest class mean of the frames' mean features."""

    def __init__(self, settings, *, rngs):
        super().__init__(settings, rngs=rngs)
        self.backbone = backbone_info(settings.backbone).build(rngs)

    def _features(self, clips, *, train):
        frames = clips.reshape(-1, *clips.shape[2:])
        maps = self.backbone(frames, set_sizes=(len(frames),), train=train)
        maps = maps[backbone_info(self.settings.backbone).output]
        return {"frames": maps.mean(axis=(1, 2)).reshape(*clips.shape[:2], -1)}

    def embed(self, clips):
        check_clips(clips, self.settings)
        return self._features(clips, train=False)

    def match(self, support, query, support_labels, *, n_way):
        shots, queries = (features["frames"].mean(axis=1) for features in (support, query))
        members = jax.nn.one_hot(support_labels, n_way)
        means = members.T @ shots / members.sum(axis=0)[:, None]
        squares = jnp.square(queries[:, None] - means).sum(axis=-1)
        return -self.settings.sharpness * squares

    def __call__(self, episode, *, n_way, train, rngs=None):
        clips, sizes = join_sets(episode, self.settings)
        features = self._features(clips, train=train)
        sets = split_sets(features, sizes)
        logits = self.match(sets.support, sets.query, episode.support_labels, n_way=n_way)
        return Training(
            logits=logits,
            losses={
                "match": cross_entropy(logits, episode.query_labels),
                "spread": jnp.mean(jnp.square(features["frames"])),
            },
            metrics={"largest": jnp.max(jnp.abs(features["frames"]))},
            stages={},
        )

    def loss_weights(self):
        return {"spread": self.settings.spread}


@dataclasses.dataclass(frozen=True)
class NearestMeanSettings(Settings):
    method = "nearest_mean"
    title = "Nearest mean"
    network = NearestMean
    losses = {"match": "distance to the class mean", "spread": "size of the features"}  # noqa: RUF012

    # Factor of the distances before the softmax.
    sharpness: float = setting(1.0, above=0)
    # Weight of the size of the features in the loss.
    spread: float = weight(0.25)


PATCHES = BackboneInfo(
    "patches", Patches, width=WIDTH, stride=PATCH, output="patches", mean=MEAN, std=STD
)


@pytest.fixture
def config(monkeypatch, motion_data):
    """The configuration of the demonstration with the method and the backbone of this file."""
    # These two lines are what makes them known.
    monkeypatch.setitem(METHODS, "nearest_mean", NearestMeanSettings)
    monkeypatch.setitem(BACKBONES, "patches", PATCHES)
    config = load_config(f"{ROOT}/configs/synthetic.py:nearest_mean")
    config.model.backbone = "patches"
    config.method.sharpness, config.method.spread = 2.0, 0.5
    config.data.source = "videos"
    config.data.root, config.data.split_dir = f"{motion_data}/videos", f"{motion_data}/splits"
    config.data.resize, config.data.crop = SIDE, CROP
    config.data.num_frames, config.data.workers = 2, 1
    config.train.n_way, config.train.n_query, config.train.steps = 3, 2, 3
    config.train.episodes_per_step, config.train.microbatch = 4, 2
    config.train.log_every, config.train.checkpoint_every = 1, 1
    config.train.eval_every, config.train.val_episodes = 3, 5
    # The same rate at every step, so that it does not depend on the number of steps.
    config.optimizer.schedule = "official"
    config.optimizer.base_lr = config.optimizer.warmup_start_lr = 0.01
    config.optimizer.boundaries, config.optimizer.factors = (0,), (1.0,)
    config.eval.n_way, config.eval.shots, config.eval.episodes = 3, (1, 2), 20
    config.eval.frame_draw = "episode"
    return config


def test_an_added_method_is_configured_checked_and_listed_like_the_others(config):
    validate(config)
    shown = help_of_keys(config)
    assert "--config.method.sharpness=2.0\n    Factor of the distances before the softmax." in shown
    config.method.sharpness = 0.0
    with pytest.raises(UsageError, match=r"config\.method\.sharpness is 0\.0; it must be above 0"):
        validate(config)
    config.method.sharpness, config.data.crop = 2.0, 20
    with pytest.raises(UsageError, match=r"config\.data\.crop is 20; it must be divisible by 8"):
        validate(config)


def test_it_is_trained_with_its_own_losses_and_goes_on_from_its_checkpoint(config, tmp_path):
    train.train(build.training(config), tmp_path / "whole")
    lines = read_metrics(tmp_path / "whole")
    assert [(line["step"], line["kind"]) for line in lines] == [
        *((step, "train") for step in (1, 2, 3)),
        (3, "val"),
    ]
    always = {"step", "kind", "loss", "accuracy", "grad_norm"}
    always |= {"learning_rate", "episodes_per_second"}
    for line in lines[:3]:
        assert set(line) == always | {"match", "spread", "largest"}
        assert line["loss"] == pytest.approx(line["match"] + 0.5 * line["spread"], rel=1e-5)
        assert line["largest"] ** 2 >= line["spread"] > 0
        assert line["grad_norm"] > 0
    config.train.steps = 2
    train.train(build.training(config), tmp_path / "parts")
    begun = load_weights(tmp_path / "parts/checkpoints").meta["config"]
    config.train.steps = 3
    # A setting that the checkpoint does not know yet has its default, which is a change here.
    del begun["method"]["spread"]
    defaults = base_config("nearest_mean").to_dict()
    assert changes(begun, config.to_dict(), defaults) == [
        "method.spread was 0.25, is 0.5",
        "train.steps was 2, is 3",
    ]
    train.train(build.training(config), tmp_path / "parts")
    whole, parts = (load_weights(tmp_path / f / "checkpoints/3") for f in ("whole", "parts"))
    assert whole.variables.keys() == {
        ("backbone", "project", "kernel"),
        ("backbone", "project", "bias"),
    }
    assert parts.step == whole.step == 3
    assert parts.meta["architecture"] == whole.meta["architecture"]
    for path, value in whole.variables.items():
        np.testing.assert_array_equal(parts.variables[path], value)


def numpy_features(kernel, bias, clips):
    """The features of decoded clips (v, t, 32, 32, 3), computed without the package."""
    low = (SIDE - CROP) // 2
    pixels = (clips[:, :, low : low + CROP, low : low + CROP] / 255 - MEAN) / STD
    features = np.zeros((*pixels.shape[:2], WIDTH))
    for top in range(0, CROP, PATCH):
        for left in range(0, CROP, PATCH):
            patch = pixels[:, :, top : top + PATCH, left : left + PATCH]
            features += patch.reshape(*patch.shape[:2], -1) @ kernel + bias
    return features / (CROP // PATCH) ** 2


def direct_accuracy(config, dataset, kernel, bias, shots):
    """The accuracy over the episodes of the evaluation, one after another in NumPy."""
    sampler = build.eval_sampler(config, dataset, n_way=3, n_shot=shots)
    correct = []
    for index in range(config.eval.episodes):
        episode = sampler.resolve(sampler(index))
        support, query = (
            numpy_features(
                kernel,
                bias,
                np.stack([dataset.read_clip(c, sampling="segments", resize=SIDE) for c in clips]),
            ).mean(axis=1)
            for clips in (episode.support, episode.query)
        )
        means = [support[episode.support_labels == label].mean(axis=0) for label in range(3)]
        distances = np.square(query[:, None] - np.stack(means)).sum(axis=-1)
        correct.append(np.mean(distances.argmin(axis=1) == episode.query_labels))
    return np.mean(correct)


def test_it_is_rebuilt_from_its_checkpoint_alone_and_evaluated_and_drawn(config, tmp_path, capsys):
    train.train(build.training(config), tmp_path)
    weights = load_weights(tmp_path)
    stored = {"method": "nearest_mean", "backbone": "patches", "num_classes": 3}
    stored |= {"sharpness": 2.0, "spread": 0.5}
    assert weights.meta["architecture"] == stored
    settings = NearestMeanSettings(num_classes=3, backbone="patches", sharpness=2.0, spread=0.5)
    assert weights.settings == settings
    # What it is trained with alone is not part of what a network sees.
    seen = weights.meta["seen"]
    assert {key for key in seen if key.startswith("method.")} == {"method.sharpness"}
    assert seen["normalization"] == [MEAN, STD]

    kernel, bias = (weights.variables["backbone", "project", name] for name in ("kernel", "bias"))
    clips = np.random.default_rng(0).integers(0, 256, (2, 2, SIDE, SIDE, 3), np.uint8)
    graphdef, *states = abstract_network(weights.settings)
    model = nnx.merge(graphdef, *(filled(state, weights.variables) for state in states))
    found = model.embed(build.eval_preprocess(config)(clips))["frames"]
    np.testing.assert_allclose(found, numpy_features(kernel, bias, clips), rtol=1e-4, atol=1e-5)

    results = evaluate.evaluate(build.evaluation(config), tmp_path, trained_here=True)
    dataset = build.open_split(config, "test")
    for shots in (1, 2):
        direct = direct_accuracy(config, dataset, kernel, bias, shots)
        assert results["trained", 3, shots].accuracy == pytest.approx(direct)
        record = json.loads((tmp_path / f"eval_test_3way_{shots}shot.json").read_text())
        assert record["method"] == "nearest_mean"
        assert record["accuracy"] == pytest.approx(direct)
        assert record["settings_not_as_in_training"] == {}
    assert "trained" in capsys.readouterr().out
    picture = figure.write_figure(build.evaluation(config), tmp_path, train_way=3)
    assert imread(picture).std() > 0.1


def test_its_checkpoint_is_not_taken_for_one_of_another_method(config, tmp_path):
    train.train(build.training(config), tmp_path)
    other = load_config(f"{ROOT}/configs/synthetic.py")
    for section in ("data", "train", "eval"):
        other[section] = config[section]
    with pytest.raises(MoloError, match="method is nearest_mean in the checkpoint and molo here"):
        train.train(build.training(other), tmp_path)
    other.init_from = str(tmp_path)
    message = r"network of another method: nearest_mean there and molo here; --config=FILE:nearest"
    with pytest.raises(MoloError, match=message):
        evaluate.evaluate(build.evaluation(other), tmp_path / "elsewhere")

"""Older checkpoints: their settings and tensors by the names of now."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from einops import rearrange
from flax import nnx

from molo_jax import build, train
from molo_jax.backbones import BACKBONES, BackboneInfo
from molo_jax.config import base_config
from molo_jax.engine.checkpoint import Checkpoints
from molo_jax.engine.metrics import read_metrics
from molo_jax.methods.settings import METHODS
from molo_jax.old_checkpoints import config_of_now, former_path, key_of_now
from molo_jax.stored_config import changes
from molo_jax.weights.networks import abstract_network, load_weights

OLD_MODEL = ("positional_a", "positional_b", "motion_weight", "single_direction")
OLD_MODEL += ("dropout_position", "dropout_attention", "dropout_feedforward")


def old_config(**loss):
    """The configuration that such a checkpoint holds, with the default values of then."""
    stored = json.loads(json.dumps(base_config().to_dict()))
    method = stored.pop("method")
    stored["model"] |= {name: method[name] for name in OLD_MODEL}
    del stored["optimizer"]["accumulation"]
    weights = {"classification": 0.8, "contrast": 0.05, "reconstruction": 0.1, "accumulation": 4}
    return stored | {"loss": weights | loss}


def test_the_defaults_of_then_are_those_of_now():
    now = base_config().to_dict()
    assert changes(old_config(), now, now) == []


def test_other_values_are_named_by_their_keys_of_now():
    stored = old_config(reconstruction=0.25, accumulation=2, contrast=0.1)
    stored["model"] |= {"positional_a": 512.0, "backbone": "resnet18"}
    now = base_config().to_dict()
    assert sorted(changes(stored, now, now)) == [
        "method.contrast was 0.1, is 0.05",
        "method.positional_a was 512.0, is 10.0",
        "method.reconstruction was 0.5, is 0.4",
        "model.backbone was 'resnet18', is 'resnet50'",
        "optimizer.accumulation was 2, is 4",
    ]


def test_a_configuration_of_now_and_one_without_a_loss_stay_as_they_are():
    now = json.loads(json.dumps(base_config().to_dict()))
    assert config_of_now(now) == now
    assert config_of_now({"data": {"crop": 32}}) == {"data": {"crop": 32}}
    assert (key_of_now("model.positional_a"), key_of_now("data.crop")) == (
        "method.positional_a",
        "data.crop",
    )


# Module of a network (or nothing) and its tensors, as they were called in checkpoints from before.
FORMER = """
scale scale_motion class_token class_token_motion
motion_reduce: kernel bias
motion_conv: kernel bias
motion_up: kernel bias
classification_layer: kernel bias
temporal_atte_before/attention/norm: scale bias
temporal_atte_before/attention/to_qkv: kernel
temporal_atte_before/attention/to_out: kernel bias
temporal_atte_before/feedforward/linear1: kernel bias
temporal_atte_before/feedforward/linear2: kernel bias
temporal_atte_before_motion/attention/norm: scale bias
temporal_atte_before_motion/attention/to_qkv: kernel
temporal_atte_before_motion/attention/to_out: kernel bias
temporal_atte_before_motion/feedforward/linear1: kernel bias
temporal_atte_before_motion/feedforward/linear2: kernel bias
up1/conv: kernel
up1/bn: scale bias mean var num_batches_tracked
up2/conv: kernel
up2/bn: scale bias mean var num_batches_tracked
up3/conv: kernel
up3/bn: scale bias mean var num_batches_tracked
outc: kernel bias
"""
FORMER_HYRSM = """
classification_layer: kernel bias
temporal_atte_before/norm: scale bias
temporal_atte_before/to_qkv: kernel
temporal_atte_before/to_out: kernel bias
temporal_atte/w_qs: kernel
temporal_atte/w_ks: kernel
temporal_atte/w_vs: kernel
temporal_atte/layer_norm: scale bias
temporal_atte/fc: kernel bias
layer2: kernel bias
"""
FORMER_TRX = "".join(
    f"transformers/{i}/{name}\n"
    for i in range(2)
    for name in (
        *("k_linear: kernel bias", "v_linear: kernel bias"),
        *("norm_k: scale bias", "norm_v: scale bias"),
    )
)
FORMER_OF = {"molo": FORMER, "hyrsm": FORMER_HYRSM, "hyrsm_pp": FORMER_HYRSM, "trx": FORMER_TRX}


def written_out(text):
    """Returns the full names of such a table."""
    names = set()
    for line in text.strip().splitlines():
        module, colon, tensors = line.rpartition(": ")
        names |= {f"{module}/{name}" if colon else name for name in tensors.split()}
    return names


def paths_of(method):
    """Returns the paths of all variables of a network, as a checkpoint has them."""
    states = abstract_network(METHODS[method](num_classes=7, backbone="resnet18"))[1:]
    return [
        [str(part) for part in path] for state in states for path in dict(nnx.to_flat_state(state))
    ]


@pytest.mark.parametrize("method", METHODS)
def test_every_tensor_has_the_name_that_it_had(method):
    backbone = [path for path in paths_of(method) if path[0] == "backbone"]
    assert [list(former_path(path)) for path in backbone] == backbone
    own = ["/".join(former_path(path)) for path in paths_of(method) if path[0] != "backbone"]
    assert len(own) == len(set(own))
    assert set(own) == written_out(FORMER_OF.get(method, ""))


class Patches(nnx.Module):
    """A backbone of one linear map of every patch of pixels."""

    def __init__(self, info, *, rngs):
        self.project = nnx.Linear(3 * info.stride**2, info.width, rngs=rngs)

    def __call__(self, frames, *, set_sizes, train):
        patches = rearrange(frames, "n (h p) (w r) c -> n h w (p r c)", p=32, r=32)
        return {"patches": self.project(patches)}


PATCHES = BackboneInfo("patches", Patches, width=16, stride=32, output="patches")


@pytest.fixture
def config_of(monkeypatch, motion_data):
    """Gives the configuration of a short training of a method."""
    monkeypatch.setitem(BACKBONES, "patches", PATCHES)

    def make(method, steps):
        config = base_config(method)
        config.model.backbone = "patches"
        config.data.source = "videos"
        config.data.root, config.data.split_dir = f"{motion_data}/videos", f"{motion_data}/splits"
        config.data.resize = config.data.crop = 32
        config.data.num_frames, config.data.workers = 3, 1
        config.train.n_way, config.train.n_query, config.train.episodes_per_step = 2, 1, 1
        config.train.steps, config.train.eval_every = steps, 0
        config.train.log_every = config.train.checkpoint_every = 1
        config.optimizer.boundaries, config.optimizer.factors = (0,), (1.0,)
        return config

    return make


def stored(folder):
    """Reads the trees of a checkpoint as they are on disk, by full names."""
    trees = {}
    for item in ("model", "optimizer"):
        with ocp.StandardCheckpointer() as reader:
            tree = reader.restore(folder / item)
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        trees[item] = {tuple(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}
    return trees


def write_with_former_names(folder, step):
    """Writes a checkpoint again with the names that its tensors had."""
    trees = stored(folder / str(step))
    with Checkpoints(folder, read_only=True) as checkpoints:
        meta = checkpoints.meta(step)
    shutil.rmtree(folder)
    nested = {item: {} for item in trees}
    for item, tree in trees.items():
        for path, leaf in tree.items():
            *parents, name = former_path(path)
            here = nested[item]
            for parent in parents:
                here = here.setdefault(parent, {})
            here[name] = leaf
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(step, meta=meta, **nested)


def numbers(workdir):
    lines = read_metrics(workdir)
    return [{k: v for k, v in line.items() if k != "episodes_per_second"} for line in lines]


@pytest.mark.parametrize("method", ["molo", "hyrsm"])
def test_a_training_goes_on_bit_for_bit_from_a_checkpoint_with_former_names(
    config_of, tmp_path, method
):
    now, before = tmp_path / "now", tmp_path / "before"
    train.train(build.training(config_of(method, 2)), now)
    shutil.copytree(now, before)
    write_with_former_names(before / "checkpoints", 2)
    prefixes = {"model": ("params/",), "optimizer": ("opt_state/1/mu/", "opt_state/1/nu/")}
    wanted = written_out(FORMER_OF[method])
    statistics = {name for name in wanted if name.endswith(("/mean", "/var", "tracked"))}
    for item, tree in stored(before / "checkpoints/2").items():
        names = {"/".join(path) for path in tree}
        for prefix in prefixes[item]:
            assert {f"{prefix}{name}" for name in wanted - statistics} <= names
        if item == "model":
            assert {f"batch_stats/{name}" for name in statistics} <= names
        assert not any("frame_encoder" in name for name in names)

    # As an evaluation and a conversion read it.
    mine, theirs = load_weights(before), load_weights(now)
    assert mine.variables.keys() == theirs.variables.keys()
    for path, value in theirs.variables.items():
        np.testing.assert_array_equal(mine.variables[path], value, err_msg=str(path))

    for folder in (now, before):
        train.train(build.training(config_of(method, 4)), folder)
    assert [line["step"] for line in numbers(before)] == [1, 2, 3, 4]
    assert numbers(before) == numbers(now)
    mine, theirs = (stored(folder / "checkpoints/4") for folder in (before, now))
    for item, tree in theirs.items():
        assert mine[item].keys() == tree.keys()
        for path, leaf in tree.items():
            assert mine[item][path].tobytes() == leaf.tobytes(), path
    moments = [leaf for path, leaf in theirs["optimizer"].items() if "mu" in path]
    assert sum(np.any(leaf != 0) for leaf in moments) > len(moments) / 2

"""Networks with drawn weights to be exported, and what they compute themselves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
from flax import nnx

from molo_jax.backbones import BACKBONES, backbone_info
from molo_jax.data.augment import eval_views
from molo_jax.methods.settings import METHODS
from molo_jax.prediction.clips import ClipRule
from molo_jax.prediction.sources import make_network
from molo_jax.weights.networks import abstract_network

NARROW = "narrow18"


RULE = ClipRule(num_frames=4, resize=36, crop=32)


def prepare(monkeypatch):
    """Adds a ResNet of one block in each stage and an eighth of the channels.

    And switches the type checker off, for which a size that is free is no whole number.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    narrow = dataclasses.replace(
        BACKBONES["resnet18"], name=NARROW, depths=(1, 1, 1, 1), stem=8, width=64
    )
    monkeypatch.setitem(BACKBONES, NARROW, narrow)


def drawn(method, backbone=NARROW, rule=RULE, **settings):
    """Returns a network whose features neither vanish nor explode."""
    settings = METHODS[method](num_classes=3, backbone=backbone, **settings)
    rng = np.random.default_rng(7)

    def value(path, leaf):
        shape, name = leaf.shape, path[-1]
        if name == "num_batches_tracked":
            return np.int32(1)
        if name == "var":
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        if name == "scale":
            # Below 1, so that the sums of many blocks stay small.
            return rng.uniform(0.3, 0.7, shape).astype(np.float32)
        spread = (2 / np.prod(shape[:-1])) ** 0.5 if name == "kernel" else 0.2
        return (spread * rng.standard_normal(shape)).astype(np.float32)

    variables = {
        path: value(path, leaf)
        for state in abstract_network(settings)[1:]
        for path, leaf in nnx.to_flat_state(state)
    }
    return make_network("runs/drawn", settings, variables, rule=rule, origin="drawn weights")


def pixels(network, clips, seed=0):
    rule = network.rule
    shape = clips, rule.num_frames, rule.resize, rule.resize, 3
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def embedded(network, clips):
    """The features that the network itself computes."""
    info = backbone_info(network.settings.backbone)

    @jax.jit
    def embed(params, batch_stats, clips):
        views = eval_views(clips, network.rule.crop, (info.mean, info.std))
        return nnx.merge(network.graphdef, params, batch_stats).embed(views)

    return embed(network.params, network.batch_stats, clips)


def matched(network, support, labels, query, n_way):
    """The logits that the network itself computes."""

    @functools.partial(jax.jit, static_argnames="n_way")
    def match(params, batch_stats, support, query, labels, n_way):
        model = nnx.merge(network.graphdef, params, batch_stats)
        return model.match(support, query, labels, n_way=n_way)

    weights = network.params, network.batch_stats
    return np.asarray(match(*weights, support, query, jnp.asarray(labels), n_way=n_way))

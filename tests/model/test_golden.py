"""The network against values recorded from the official model (parity_tests/golden/README.md)."""

import functools
import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from molo_jax.model import (
    Episode,
    LossWeights,
    MoLo,
    MoLoConfig,
    loss_terms,
    torch_weights,
    total_loss,
)

GOLDEN = pathlib.Path(__file__).parents[2] / "parity_tests" / "golden"
OUTPUTS = {
    "logits": "match",
    "logits_s2q": "support_to_query",
    "logits_q2s": "query_to_support",
    "logits_s2q_motion": "support_to_query_motion",
    "logits_q2s_motion": "query_to_support_motion",
}
TERMS = {"cls": "classification", "recons": "reconstruction"}


@functools.cache
def _recipe():
    spec = importlib.util.spec_from_file_location("recipe", GOLDEN / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def _recorded(name):
    with np.load(GOLDEN / name) as file:
        values = {key: file[key] for key in file.files}
    return json.loads(str(values.pop("meta"))), values


def _network(meta, stats):
    """The network with the recipe's weights, dropout off, and the given running statistics."""
    config = MoLoConfig(
        num_classes=meta["num_class"],
        backbone=meta["backbone"],
        dropout_position=0.0,
        dropout_attention=0.0,
        dropout_feedforward=0.0,
    )
    graphdef, state = nnx.split(nnx.eval_shape(lambda: MoLo(config, rngs=nnx.Rngs(0))))
    flat = dict(nnx.to_flat_state(state))
    tensors = {}
    for path, value in flat.items():
        name = torch_weights.official_name(path)
        shape = torch_weights.to_official(path, np.empty(value.shape, np.bool_)).shape
        tensors[name] = stats[name] if name in stats else _recipe().weight(name, shape)
    imported = torch_weights.import_tensors(tensors, {p: v.shape for p, v in flat.items()})
    filled = {path: value.replace(jnp.asarray(imported[path])) for path, value in flat.items()}
    return nnx.split(nnx.merge(graphdef, nnx.from_flat_state(filled)), nnx.Param, nnx.BatchStat)


def _episode(meta):
    raw = _recipe().episode(
        meta["seed"], meta["way"], meta["shot"], meta["query"], meta["num_class"]
    )
    names = {"support_classes": "support_real", "query_classes": "query_real"}
    clips = {k: jnp.asarray(np.moveaxis(raw[k], 2, -1)) for k in ("support", "query")}
    labels = ("support_labels", "query_labels", "support_classes", "query_classes")
    return Episode(**clips, **{k: jnp.asarray(raw[names.get(k, k)]) for k in labels})


def _forward(meta, stats, train):
    graphdef, params, batch_stats = _network(meta, stats)

    @jax.jit
    def run(params, batch_stats, episode):
        model = nnx.merge(graphdef, params, batch_stats, copy=True)
        output = model(
            episode.support, episode.query, episode.support_labels, n_way=meta["way"], train=train
        )
        return output, loss_terms(output, episode), nnx.state(model, nnx.BatchStat)

    return run(params, batch_stats, _episode(meta))


def _assert_outputs(output, values):
    for name, ours in OUTPUTS.items():
        np.testing.assert_allclose(getattr(output.logits, ours), values[f"out/{name}"], rtol=2e-5)
    scale = np.abs(values["out/class_logits"]).max()
    np.testing.assert_allclose(
        output.class_logits / scale, values["out/class_logits"] / scale, atol=1e-5
    )


def test_evaluation_gives_the_recorded_logits():
    meta, values = _recorded("r18_eval.npz")
    stats = {k.removeprefix("stats/"): v for k, v in values.items() if k.startswith("stats/")}
    output, _, _ = _forward(meta, stats, train=False)
    _assert_outputs(output, values)


def test_training_gives_the_recorded_logits_losses_and_running_statistics():
    meta, values = _recorded("r18_train.npz")
    output, terms, batch_stats = _forward(meta, {}, train=True)
    _assert_outputs(output, values)
    for name, expected in meta["losses"].items():
        ours = terms[TERMS.get(name, name)]
        np.testing.assert_allclose(ours, expected, rtol=1e-5)
    coefficients = (meta["coef"][k] for k in ("cls", "con", "rec"))
    total = total_loss(terms, LossWeights(*coefficients, accumulation=1))
    np.testing.assert_allclose(total, meta["total"], rtol=1e-5)
    for path, value in nnx.to_flat_state(batch_stats):
        name = torch_weights.official_name(path)
        if not name.endswith("num_batches_tracked"):
            norm, _ = values[f"stat/{name}"]
            np.testing.assert_allclose(np.linalg.norm(value[...]), norm, rtol=1e-5)

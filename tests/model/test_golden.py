"""The network against values recorded from the official model (parity_tests/golden/README.md)."""

import dataclasses
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
from molo_jax.training.optimizer import make_optimizer
from molo_jax.training.state import create_state
from molo_jax.training.step import chunked, make_mesh, make_train_step

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


def _episode(meta, number=0):
    raw = _recipe().episode(
        meta["seed"] + number, meta["way"], meta["shot"], meta["query"], meta["num_class"]
    )
    names = {"support_classes": "support_real", "query_classes": "query_real"}
    clips = {k: jnp.asarray(np.moveaxis(raw[k], 2, -1)) for k in ("support", "query")}
    labels = ("support_labels", "query_labels", "support_classes", "query_classes")
    return Episode(**clips, **{k: jnp.asarray(raw[names.get(k, k)]) for k in labels})


def _forward(meta, stats, train):
    """The output, the loss terms and the running statistics of the recorded episode."""
    graphdef, params, batch_stats = _network(meta, stats)
    run = jax.jit(functools.partial(_run, graphdef, meta, train=train))
    _, recorded = run(params, batch_stats, _episode(meta))
    return recorded


def _run(graphdef, meta, params, batch_stats, episode, train):
    model = nnx.merge(graphdef, params, batch_stats, copy=True)
    output = model(
        episode.support, episode.query, episode.support_labels, n_way=meta["way"], train=train
    )
    terms = loss_terms(output, episode)
    # An evaluation is recorded without coefficients.
    total = total_loss(terms, _weights(meta)) if train else jnp.zeros(())
    return total, (output, terms, nnx.state(model, nnx.BatchStat))


def _weights(meta, accumulation=1):
    return LossWeights(*(meta["coef"][k] for k in ("cls", "con", "rec")), accumulation)


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


def _probe(name, path, value):
    return _recipe().probe(name, torch_weights.to_official(path, np.asarray(value)))


def _norm_errors(kind, state, values):
    """Relative errors of the norms and of the random projections of all tensors of a state."""
    norms, projections = [], []
    for path, value in nnx.to_flat_state(state):
        name = torch_weights.official_name(path)
        if not name.endswith("num_batches_tracked"):
            norm, projection = values[f"{kind}/{name}"]
            ours = _probe(name, path, value[...])
            norms.append(abs(ours[0] - norm) / norm)
            projections.append(abs(ours[1] - projection) / norm)
    return np.array(norms), np.array(projections)


def test_training_gives_the_recorded_logits_losses_statistics_and_gradients():
    meta, values = _recorded("r18_train.npz")
    graphdef, params, batch_stats = _network(meta, {})
    run = functools.partial(_run, graphdef, meta, train=True)
    (total, (output, terms, new_stats)), grads = jax.jit(jax.value_and_grad(run, has_aux=True))(
        params, batch_stats, _episode(meta)
    )
    _assert_outputs(output, values)
    for name, expected in meta["losses"].items():
        np.testing.assert_allclose(terms[TERMS.get(name, name)], expected, rtol=1e-5)
    np.testing.assert_allclose(total, meta["total"], rtol=1e-5)
    norms, projections = _norm_errors("stat", new_stats, values)
    assert max(norms.max(), projections.max()) < 1e-5
    # Rounding alone moves gradient norms by 1e-5 (median) to 2e-3, projections by up to 1e-2.
    norms, projections = _norm_errors("grad", grads, values)
    assert np.median(norms) < 5e-5
    assert norms.max() < 6e-3
    assert projections.max() < 3e-2


def test_optimizer_steps_give_the_recorded_losses_parameters_and_statistics():
    meta, values = _recorded("r18_steps.npz")
    graphdef, params, batch_stats = _network(meta, {})
    rates = jnp.asarray(meta["lrs"])
    optimizer = make_optimizer(lambda step: rates[step], weight_decay=meta["weight_decay"])
    step = make_train_step(
        graphdef,
        optimizer,
        preprocess=lambda arrays, key: Episode(
            **{name: value for name, value in arrays.items() if name != "index"}
        ),
        episode_key=jax.random.key,
        weights=_weights(meta, meta["accum"]),
        n_way=meta["way"],
        mesh=make_mesh(),
    )
    state = create_state(params, batch_stats, optimizer)
    for number in range(meta["steps"]):
        indices = np.arange(meta["accum"]) + number * meta["accum"]
        episodes = [dataclasses.asdict(_episode(meta, i)) for i in indices]
        batch = {name: np.stack([e[name] for e in episodes]) for name in episodes[0]}
        state, metrics = step(state, chunked(batch | {"index": indices.astype(np.int32)}, 1))
        history = [meta["history"][i] for i in indices]
        np.testing.assert_allclose(metrics["loss"], sum(h["total"] for h in history), rtol=2e-4)
        match = np.mean([h["match"] for h in history])
        np.testing.assert_allclose(metrics["match"], match, rtol=2e-4)
    # Adam turns rounding in tiny gradients into whole steps.
    for kind, tree in (("param", state.params), ("stat", state.batch_stats)):
        norms, projections = _norm_errors(kind, tree, values)
        assert np.median(norms) < 1e-6 if kind == "param" else np.median(norms) < 1e-4
        assert norms.max() < 6e-4
        assert projections.max() < 3e-3

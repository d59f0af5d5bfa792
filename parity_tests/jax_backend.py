"""Runs a case in JAX (`molo_jax`), and names what comes out as PyTorch does."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from molo_jax.engine.mesh import make_mesh, replicated
from molo_jax.engine.optimizer import make_optimizer
from molo_jax.engine.state import create_state
from molo_jax.engine.step import chunked, make_train_step
from molo_jax.methods.episode import Episode
from molo_jax.methods.settings import Settings, own_fields, settings_class
from molo_jax.weights import torch_map
from molo_jax.weights.networks import abstract_network
from parity_tests.case import Arrays, Case, Tensors
from parity_tests.methods import METHODS as _NAMED
from parity_tests.recording import Recording

# The methods that this backend computes.
METHODS = tuple(_NAMED)

# Name of a stage of `Training.stages` -> official module, with its calls for the support and for
# the query set.
_BACKBONE = {
    "pool": ("backbone.3", 0, 1),
    "layer1": ("backbone.4", 0, 1),
    "layer2": ("backbone.5", 0, 1),
    "layer3": ("backbone.6", 0, 1),
    "layer4": ("backbone.7", 0, 1),
}
_MOLO = _BACKBONE | {
    "motion_reduction": ("motion_reduce", 0, 1),
    "motion_convolution": ("motion_conv", 0, 1),
    "motion_expansion": ("motion_up", 0, 1),
    "positioned": ("pe", 2, 3),
    "motion_positioned": ("pe", 1, 0),
    "attention": ("temporal_atte_before.layers.0.0", 0, 1),
    "feedforward": ("temporal_atte_before.layers.0.1", 0, 1),
    "encoded": ("temporal_atte_before", 0, 1),
    "motion_attention": ("temporal_atte_before_motion.layers.0.0", 1, 0),
    "motion_feedforward": ("temporal_atte_before_motion.layers.0.1", 1, 0),
    "motion_encoded": ("temporal_atte_before_motion", 1, 0),
}
_FRAMES = _BACKBONE | {"frames": ("backbone.8", 0, 1)}
_HYRSM = _FRAMES | {"positioned": ("pe", 0, 1), "encoded": ("temporal_atte_before", 0, 1)}
_TRX = _FRAMES | {
    f"cross_transformers.{i}.{name}": (f"transformers.{i}.{module}", 0, 1)
    for i in range(2)
    for name, module in (
        ("positioned", "pe"),
        ("key_projection", "k_linear"),
        ("value_projection", "v_linear"),
        ("key_norm", "norm_k"),
    )
}
# Of MoLo: the stages of the decoder, which runs on both sets at once -> official module.
_DECODER = {f"motion_decoder.blocks.{i}": f"up{i + 1}" for i in range(3)}
_DECODER["motion_decoder.output"] = "outc"
# Of MoLo: an output's name -> field of its scores.
_SCORES = {
    "logits_s2q": "support_to_query",
    "logits_q2s": "query_to_support",
    "logits_s2q_motion": "support_to_query_motion",
    "logits_q2s_motion": "query_to_support_motion",
}


def forward(
    case: Case,
    tensors: Tensors,
    episode: Arrays,
    *,
    train: bool,
    double: bool = False,
    quick: bool = False,
) -> Recording:
    """Runs an episode without gradients: outputs, stages, losses, and statistics in training.

    With `quick`, the compiler spends little time on the program.
    """
    return forwards([case], tensors, episode, train=train, double=double, quick=quick)[0]


def forwards(
    cases: Sequence[Case],
    tensors: Tensors,
    episode: Arrays,
    *,
    train: bool,
    double: bool = False,
    quick: bool = False,
) -> list[Recording]:
    """Runs cases that differ in settings alone, in one program, which computes once what is shared.

    Arguments as for :func:`forward`.
    """
    with precision(double):
        computations = [
            functools.partial(run_episode, _structure(case)[0], case, train=train) for case in cases
        ]
        run = compiled(lambda *arguments: [compute(*arguments) for compute in computations], quick)
        _, params, stats = make_network(cases[0], tensors, double=double)
        results = jax.device_get(run(params, stats, to_jax(episode, double)))
    return [to_recording(recorded, with_statistics=train) for _, recorded in results]


def gradients(
    case: Case, tensors: Tensors, episode: Arrays, *, double: bool = False, quick: bool = False
) -> Recording:
    """Runs an episode in training mode with the gradient of its total loss."""
    return gradients_and_forwards([case], tensors, episode, double=double, quick=quick)[0]


def gradients_and_forwards(
    cases: Sequence[Case],
    tensors: Tensors,
    episode: Arrays,
    *,
    double: bool = False,
    quick: bool = False,
) -> list[Recording]:
    """Runs the first case with gradients and, in the same program, the others without.

    Arguments as for :func:`forwards`.
    """
    with precision(double):
        first, *others = (
            functools.partial(run_episode, _structure(case)[0], case, train=True) for case in cases
        )

        def compute(*arguments):
            total, recorded = first(*arguments)
            return total, (recorded, [other(*arguments)[1] for other in others])

        run = compiled(jax.value_and_grad(compute, has_aux=True), quick)
        _, params, stats = make_network(cases[0], tensors, double=double)
        (_, results), grads = jax.device_get(run(params, stats, to_jax(episode, double)))
    recorded, others = results
    with_gradients = to_recording(recorded, with_statistics=True) | {"gradients": by_name(grads)}
    return [with_gradients, *(to_recording(other, with_statistics=True) for other in others)]


def steps(
    case: Case,
    tensors: Tensors,
    batches: Sequence[Sequence[Arrays]],
    *,
    rates: Sequence[float],
    weight_decay: float,
    double: bool = False,
) -> Recording:
    """Makes one optimizer step for each batch of episodes, with the step that training uses.

    Losses are named `<step>/<term>`, means over the episodes of the step.
    """
    losses = {}
    with precision(double):
        graphdef, params, stats = make_network(case, tensors, double=double)
        mesh = make_mesh(jax.devices()[:1])
        schedule = jnp.asarray(rates)
        optimizer = make_optimizer(
            lambda step: schedule[step], decays=torch_map.decays, weight_decay=weight_decay
        )
        step = make_train_step(
            graphdef,
            optimizer,
            preprocess=_as_episode,
            episode_key=jax.random.key,
            n_way=case.way,
            mesh=mesh,
            # Frames of 224 pixels take gigabytes, of which the half need not be kept.
            remat="none" if case.size <= 64 else "blocks",
        )
        # Where the step will leave it, so that the second call finds the same program.
        state = jax.device_put(create_state(params, stats, optimizer), replicated(mesh))
        for number, episodes in enumerate(batches):
            # One episode at a time: what makes memory and compilation cheapest.
            chunks = chunked(_stacked(episodes, double), 1)
            state, metrics = step(state, chunks, len(chunks))
            for term in (*case.names.losses.values(), "loss"):
                name = "total" if term == "loss" else term
                losses[f"{number}/{name}"] = np.asarray(metrics[term])
    return {
        "losses": losses,
        "parameters": by_name(jax.device_get(state.params)),
        "statistics": by_name(jax.device_get(state.batch_stats)),
    }


def spared(case: Case) -> set[str]:
    """Returns the official names of the parameters without weight decay."""
    paths = [path for path, _ in nnx.to_flat_state(_structure(case)[1])]
    return {torch_map.official_name(path) for path in paths if not torch_map.decays(path)}


def make_network(
    case: Case, tensors: Tensors, *, double: bool = False
) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Builds the network with the given weights: structure, parameters, statistics."""
    graphdef, params, stats = _structure(case)
    flat = dict(nnx.to_flat_state(params)) | dict(nnx.to_flat_state(stats))
    imported = torch_map.import_tensors(tensors, {p: v.shape for p, v in flat.items()})

    def filled(state):
        return nnx.from_flat_state(
            {
                path: value.replace(_floating(imported[path], double))
                for path, value in nnx.to_flat_state(state)
            }
        )

    return graphdef, filled(params), filled(stats)


@functools.lru_cache(maxsize=4)
def _structure(case: Case) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """The network without its arrays; tracing it takes a second."""
    return abstract_network(settings_of(case))


def settings_of(case: Case) -> Settings:
    """Returns the settings of the method for a case."""
    known = settings_class(case.method)
    weights = vars(case.coefficients) | {}
    # The official code multiplies the weight of the reconstruction by its accumulation.
    weights["reconstruction"] *= case.accumulation
    own = {name: value for name, value in weights.items() if name in own_fields(known)}
    return known(**({"num_classes": case.num_classes} | own | case.network()))


def to_jax(episode: Arrays, double: bool = False) -> Episode:
    """Moves the arrays of an episode to the device, channels last."""
    arrays = {name: jnp.asarray(array) for name, array in episode.items()}
    for name in ("support", "query"):
        arrays[name] = _floating(np.moveaxis(episode[name], 2, -1), double)
    return Episode(**arrays)


def _floating(array: np.ndarray, double: bool) -> jax.Array:
    floating = np.issubdtype(array.dtype, np.floating)
    if floating:
        array = np.asarray(array, np.float64 if double else np.float32)
    # `jnp.asarray`, and a cast by JAX, would compile a program for each shape.
    return jax.device_put(array)


def precision(double: bool = False):
    """Full float32 on every device, or float64."""
    return jax.enable_x64(True) if double else jax.default_matmul_precision("highest")


def compiled(function, quick: bool):
    """Compiles a function when it is called.

    Quickly means without optimizing, for programs that run once on small arrays.
    """
    options = {"xla_backend_optimization_level": 0} if quick else None
    return jax.jit(function, compiler_options=options)


@contextlib.contextmanager
def optimized() -> Iterator[None]:
    """Has the compiler optimize the programs that are built in the `with` block.

    The tests compile without optimizations, which is slower for a program that runs long or often.
    """
    jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})
    with mock.patch.object(jax, "jit", jit):
        yield


def run_episode(graphdef, case, params, stats, episode, *, train):
    """Returns the total loss, and what `to_recording` makes a recording of."""
    model = nnx.merge(graphdef, params, stats, copy=True)
    output = model(episode, n_way=case.way, train=train)
    total = model.total_loss(output.losses)
    stats = nnx.state(model, nnx.BatchStat)
    return total, (output, output.losses | {"total": total}, stats)


def _as_episode(arrays, key):
    del key
    return Episode(**{name: array for name, array in arrays.items() if name != "index"})


def _stacked(episodes: Sequence[Arrays], double: bool) -> Arrays:
    converted = [to_jax(episode, double) for episode in episodes]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *converted)
    index = np.arange(len(episodes), dtype=np.int32)
    return {**vars(stacked), "index": index}


def to_recording(recorded, *, with_statistics: bool) -> Recording:
    """Names what `run_episode` returned beside the loss as PyTorch does."""
    output, losses, stats = recorded
    named = _named(output.stages)
    outputs = {"logits": output.logits}
    if "classification_layer/0" in named:
        outputs["class_logits"] = named["classification_layer/0"]
    if "scores" in output.stages:
        scores = output.stages["scores"]
        found = {name: getattr(scores, field) for name, field in _SCORES.items()}
        outputs |= {name: value for name, value in found.items() if value is not None}
    recording = {"outputs": outputs, "stages": named, "losses": losses}
    return recording | ({"statistics": by_name(stats)} if with_statistics else {})


def _named(stages) -> dict[str, np.ndarray]:
    """Gives the stages the names and layouts of the official modules' outputs."""
    named = {}
    if "class_logits" in stages:
        logits = stages["class_logits"]
        if not isinstance(logits, np.ndarray):
            # Of every frame, support first.
            sets = (logits.support, logits.query)
            logits = np.concatenate([x.reshape(-1, x.shape[-1]) for x in sets])
        named["classification_layer/0"] = logits
    names = _MOLO if "motion_reduction" in stages else _TRX | _HYRSM
    for field, (module, support, query) in names.items():
        if field in stages:
            named[f"{module}/{support}"] = _official_layout(module, stages[field].support)
            named[f"{module}/{query}"] = _official_layout(module, stages[field].query)
    for field, module in _DECODER.items():
        if field in stages:
            named[f"{module}/0"] = _official_layout(module, stages[field])
    if "relation" in stages:
        named["temporal_atte/0"] = stages["relation"]
        tokens = stages["tokens"]
        # The one-dimensional convolution has channels before frames.
        support = tokens.support.reshape(-1, *tokens.support.shape[-2:])
        named["layer2/0"] = np.moveaxis(support, -1, 1)
        named["layer2/1"] = np.moveaxis(tokens.query, -1, 1)
    return named


def _official_layout(module: str, array: np.ndarray) -> np.ndarray:
    """Maps of clips (v, t, h, w, c) become those of frames (v t, c, h, w); tokens stay."""
    if module == "backbone.8":
        return array.reshape(-1, array.shape[-1], 1, 1)
    if array.ndim != 5:
        return array
    if module == "motion_reduce":
        return np.moveaxis(array, -1, 1)
    return np.moveaxis(array.reshape(-1, *array.shape[2:]), -1, 1)


def by_name(state: nnx.State) -> dict[str, np.ndarray]:
    """Gives parameters, their gradients or statistics official names and layouts."""
    return {
        torch_map.official_name(path): torch_map.to_official(path, np.asarray(value[...]))
        for path, value in nnx.to_flat_state(state)
    }

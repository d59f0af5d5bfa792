"""The jitted training step and the jitted evaluation functions, over a mesh of devices."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from molo_jax.engine.state import TrainState
from molo_jax.methods.base import accuracy
from molo_jax.methods.episode import Episode, Features, Training
from molo_jax.nn import remat as recomputation
from molo_jax.nn.layers import BATCH_NORM_MOMENTUM
from molo_jax.nn.precision import FLOAT32, Precision, using

# The mesh axis over which episodes are spread.
DATA_AXIS = "data"
# A batch of episodes as it comes from the input pipeline: arrays with a leading episode axis.
Batch = Mapping[str, Array | np.ndarray]
Metrics = dict[str, Float[Array, ""]]


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh over the given devices (all of them by default)."""
    devices = jax.devices() if devices is None else devices
    types = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), (DATA_AXIS,), types, devices=devices)


def episodes_sharding(mesh: Mesh) -> NamedSharding:
    """Placement of a batch from :func:`chunked`: the episodes of each chunk over all devices."""
    return NamedSharding(mesh, PartitionSpec(None, DATA_AXIS))


def clips_sharding(mesh: Mesh) -> NamedSharding:
    """Placement of separate clips: the leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Placement of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def chunked(batch: Batch, chunk: int) -> Batch:
    """Cuts the leading episode axis into ``(chunks, chunk)``, keeping the order of episodes.

    Raises:
        ValueError: if the number of episodes is not a multiple of ``chunk``.
    """

    def cut(x):
        if x.shape[0] % chunk:
            raise ValueError(f"{x.shape[0]} episodes cannot be cut into chunks of {chunk}")
        return x.reshape(x.shape[0] // chunk, chunk, *x.shape[1:])

    return jax.tree.map(cut, dict(batch))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Totals:
    """Sums over the chunks of a batch so far, and the statistics that have come out of them."""

    grads: nnx.State
    metrics: Metrics
    batch_stats: nnx.State


# (parameters, running statistics, the arrays of one chunk) -> its means.
_ChunkGradient = Callable[[nnx.State, nnx.State, Batch], _Totals]


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    *,
    preprocess: Callable[[Batch, Array], Episode],
    episode_key: Callable[[Int[Array, ""]], Array],
    n_way: int,
    mesh: Mesh,
    precision: Precision = FLOAT32,
    remat: str = "none",
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Builds the jitted optimizer step.

    The gradient is the mean over all episodes of the batch. Episodes of one chunk run side by side,
    spread over the mesh; chunks run one after another, so a large batch fits a small memory. The
    running batch-normalization statistics come out as if the episodes had run in order.

    A step whose loss or gradient is not finite leaves the state as it was; its metrics tell.

    Args:
        graphdef: the network's structure.
        optimizer: see :func:`molo_jax.engine.optimizer.make_optimizer`.
        preprocess: turns the arrays of one episode and a key into the network's input.
        episode_key: the random key of an episode, from its index.
        n_way: number of classes of an episode.
        mesh: the devices.
        precision: what the gradient is computed in; the optimizer computes in float32.
        remat: what is computed again for the gradient, a name in :data:`molo_jax.nn.remat.REMATS`.

    Returns:
        ``step(state, batch)``, whose batch is cut by :func:`chunked` and must hold ``index``, the
        episodes' indices; it returns the new state and the means over the batch of every term of
        the method's loss, of the ``loss``, the ``accuracy``, what else the method measures, and the
        ``grad_norm``. The old state's memory is reused.
    """
    gradient = _chunk_gradient(graphdef, preprocess, episode_key, n_way, precision, remat)
    whole, spread = replicated(mesh), episodes_sharding(mesh)

    def single(state, batch):
        return _update(optimizer, state, gradient(state.params, state.batch_stats, _cut(batch, 0)))

    def add(totals, params, batch, chunk):
        new = gradient(params, totals.batch_stats, _cut(batch, chunk))
        sums = jax.tree.map(jnp.add, (totals.grads, totals.metrics), (new.grads, new.metrics))
        return _Totals(*sums, new.batch_stats)

    def finish(state, totals, chunks):
        means = jax.tree.map(lambda x: x / chunks, (totals.grads, totals.metrics))
        return _update(optimizer, state, _Totals(*means, totals.batch_stats))

    single = jax.jit(single, in_shardings=(whole, spread), out_shardings=whole, donate_argnums=0)
    start = jax.jit(
        lambda state, batch: _no_totals(gradient, state, _cut(batch, 0)),
        in_shardings=(whole, spread),
        out_shardings=whole,
    )
    add = jax.jit(
        add, in_shardings=(whole, whole, spread, whole), out_shardings=whole, donate_argnums=0
    )
    finish = jax.jit(finish, out_shardings=whole, donate_argnums=0)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        chunks = batch["index"].shape[0]
        if chunks == 1:
            return single(state, batch)
        # Not a loop inside one program: XLA runs the body of a loop far slower on CPU.
        batch = jax.device_put(dict(batch), spread)
        totals = start(state, batch)
        for chunk in range(chunks):
            totals = add(totals, state.params, batch, np.int32(chunk))
        return finish(state, totals, np.float32(chunks))

    return step


def _chunk_gradient(
    graphdef: nnx.GraphDef,
    preprocess: Callable[[Batch, Array], Episode],
    episode_key: Callable[[Int[Array, ""]], Array],
    n_way: int,
    precision: Precision,
    remat: str = "none",
) -> _ChunkGradient:
    """Builds the gradient and the metrics of one chunk of episodes, means over them."""

    def episode_loss(params, empty_stats, arrays):
        augment_key, dropout_key = jax.random.split(episode_key(arrays["index"]))
        episode = preprocess(arrays, augment_key)
        model = nnx.merge(graphdef, params, empty_stats, copy=True)
        rngs = nnx.Rngs(dropout=dropout_key)
        training = model(episode, n_way=n_way, train=True, rngs=rngs)
        loss = model.total_loss(training.losses)
        metrics = training.losses | {"loss": loss} | _measured(training, episode)
        return loss, (metrics, nnx.state(model, nnx.BatchStat))

    def chunk_loss(params, empty_stats, arrays):
        run = jax.vmap(episode_loss, in_axes=(None, None, 0))
        losses, (metrics, updates) = run(params, empty_stats, arrays)
        return jnp.mean(losses), (jax.tree.map(jnp.mean, metrics), updates)

    def gradient(params, batch_stats, arrays):
        empty = jax.tree.map(jnp.zeros_like, batch_stats)
        with using(precision), recomputation.using(remat):
            grads, (metrics, updates) = jax.grad(chunk_loss, has_aux=True)(params, empty, arrays)
        return _Totals(grads, metrics, fold_batch_stats(batch_stats, updates))

    return gradient


def _cut(batch: Batch, chunk: Int[Array, ""] | int) -> Batch:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, chunk, keepdims=False), batch)


def _no_totals(gradient: _ChunkGradient, state: TrainState, chunk: Batch) -> _Totals:
    """Sums over no chunks; the statistics are copied, for their memory will be reused."""
    shapes = jax.eval_shape(
        lambda *arguments: gradient(*arguments).metrics, state.params, state.batch_stats, chunk
    )
    return _Totals(
        grads=jax.tree.map(jnp.zeros_like, state.params),
        metrics=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
        batch_stats=jax.tree.map(jnp.copy, state.batch_stats),
    )


def _update(
    optimizer: optax.GradientTransformation, state: TrainState, means: _Totals
) -> tuple[TrainState, Metrics]:
    """Applies the optimizer, unless the loss or the gradient is not finite.

    The norm of the gradient is a sum over the parameters in the order of their names, so its last
    bit can change with a name. It is reported, and nothing is computed from it.
    """
    metrics = means.metrics | {"grad_norm": optax.tree.norm(means.grads)}

    def apply():
        updates, opt_state = optimizer.update(means.grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, means.batch_stats, opt_state, state.step + 1)

    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    return jax.lax.cond(finite, apply, lambda: state), metrics


def fold_batch_stats(running: nnx.State, updates: nnx.State) -> nnx.State:
    """Applies the statistics' updates of several episodes, in order, to the running statistics.

    An episode's ``k`` updates turn a running value ``r`` into ``0.9^k r + c``; ``c`` is what they
    make of zero. So ``E`` episodes give ``0.9^(k E) r + sum_e 0.9^(k (E - 1 - e)) c_e``.

    Args:
        running: statistics before the episodes.
        updates: with a leading episode axis, what each episode makes of statistics that are all
            zero.
    """
    given, flat = dict(nnx.to_flat_state(running)), {}
    for path, update in nnx.to_flat_state(updates):
        each = given[path]
        if path[-1] == "num_batches_tracked":
            flat[path] = each.replace(each[...] + jnp.sum(update[...]))
            continue
        count = dict(nnx.to_flat_state(updates))[(*path[:-1], "num_batches_tracked")][...]
        flat[path] = each.replace(_fold(each[...], update[...], count[0]))
    return nnx.from_flat_state(flat)


def _fold(running: Array, updates: Array, count: Array) -> Array:
    episodes = updates.shape[0]
    keep = (1.0 - BATCH_NORM_MOMENTUM) ** count.astype(running.dtype)
    weights = keep ** jnp.arange(episodes - 1, -1, -1, dtype=running.dtype)
    # In float32 whatever the networks compute in: rounding here would stay in the statistics.
    added = jnp.tensordot(weights, updates, axes=1, precision=jax.lax.Precision.HIGHEST)
    return keep**episodes * running + added


def _measured(training: Training, episode: Episode) -> Metrics:
    return {"accuracy": accuracy(training.logits, episode.query_labels)} | training.metrics


def make_embed(
    graphdef: nnx.GraphDef,
    *,
    preprocess: Callable[[Array], Array],
    mesh: Mesh,
    precision: Precision = FLOAT32,
) -> Callable[[nnx.State, nnx.State, Array], Features]:
    """Builds the jitted ``embed(params, batch_stats, clips)`` from raw clips to features.

    Args:
        graphdef: the network's structure.
        preprocess: turns raw clips ``(v, t, r, r, 3)`` into normalized crops.
        mesh: the devices, over which the clips are spread; their number must divide that of the
            clips.
        precision: what the network computes in.
    """

    def embed(params, batch_stats, clips):
        with using(precision):
            return nnx.merge(graphdef, params, batch_stats).embed(preprocess(clips))

    whole = replicated(mesh)
    return jax.jit(embed, in_shardings=(whole, whole, clips_sharding(mesh)), out_shardings=whole)


def make_match(
    graphdef: nnx.GraphDef, *, n_way: int, precision: Precision = FLOAT32
) -> Callable[[nnx.State, nnx.State, Features, Array, Array, Array], Float[Array, "e q n"]]:
    """Builds the jitted matching of many episodes among embedded clips.

    Of the episodes of a call, ``matched_at_once`` of the method are matched side by side.

    Args:
        graphdef: the network's structure.
        n_way: number of classes of an episode.
        precision: what the network computes in.

    Returns:
        ``match(params, batch_stats, features, support, query, support_labels)`` with ``support (e,
        s)`` and ``query (e, q)`` the positions of the episodes' clips in ``features``; gives the
        logits.
    """

    def episode_logits(model, features, support, query, labels):
        shots, queries = (jax.tree.map(lambda x, i=i: x[i], features) for i in (support, query))
        return model.match(shots, queries, labels, n_way=n_way)

    @jax.jit
    def match(params, batch_stats, features, support, query, support_labels):
        model = nnx.merge(graphdef, params, batch_stats)
        with using(precision):
            return jax.lax.map(
                lambda episode: episode_logits(model, features, *episode),
                (support, query, support_labels),
                batch_size=model.matched_at_once,
            )

    return match

"""The jitted training step and the jitted evaluation functions, over a mesh of devices."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from molo_jax.engine.mesh import DATA_AXIS, clips_sharding, episodes_sharding, replicated
from molo_jax.engine.state import TrainState
from molo_jax.methods.base import accuracy
from molo_jax.methods.episode import Episode, Features, Training
from molo_jax.nn import remat as recomputation
from molo_jax.nn.layers import BATCH_NORM_MOMENTUM
from molo_jax.nn.precision import FLOAT32, Precision, using

# A batch of episodes as it comes from the input pipeline: arrays with a leading episode axis.
Batch = Mapping[str, Array | np.ndarray]
Metrics = dict[str, Float[Array, ""]]


def chunked(batch: Batch, chunk: int) -> list[Batch]:
    """Cuts the leading episode axis into chunks of ``chunk`` episodes, in their order.

    Raises:
        ValueError: if the number of episodes is not a multiple of ``chunk``.
    """
    (episodes,) = {array.shape[0] for array in batch.values()}
    if episodes % chunk:
        raise ValueError(f"{episodes} episodes cannot be cut into chunks of {chunk}")
    starts = range(0, episodes, chunk)
    return [{name: x[i : i + chunk] for name, x in batch.items()} for i in starts]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Totals:
    """What the chunks of a batch give so far: sums over episodes, and the running statistics."""

    grads: nnx.State
    metrics: Metrics
    batch_stats: nnx.State


# (parameters, zeros in place of the running statistics, the arrays of one chunk) -> the gradient
# and the metrics, means over the episodes; and what each episode makes of the zeros.
_ChunkGradient = Callable[[nnx.State, nnx.State, Batch], tuple[nnx.State, Metrics, nnx.State]]


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
) -> Callable[[TrainState, Iterable[Batch], int], tuple[TrainState, Metrics]]:
    """Builds the jitted optimizer step.

    The gradient is the mean over all episodes of the step. Episodes of one chunk run side by side,
    spread over the mesh; chunks run one after another, so many episodes fit a small memory. Every
    device sums up the gradients of its own episodes; the devices exchange them once a step. The
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
        ``step(state, chunks, count)`` with ``count`` chunks of the same number of episodes, which
        are taken one by one and must hold ``index``, the episodes' indices. It returns the new
        state and the means over the episodes of every term of the method's loss, of the ``loss``,
        the ``accuracy``, what else the method measures, and the ``grad_norm``. The old state's
        memory is reused.
    """
    gradient = _chunk_gradient(graphdef, preprocess, episode_key, n_way, precision, remat)
    parts = _one_device if mesh.size == 1 else _several_devices
    single, start, add, finish = parts(gradient, optimizer, mesh)

    def step(state: TrainState, chunks: Iterable[Batch], count: int) -> tuple[TrainState, Metrics]:
        chunks = iter(chunks)
        first = next(chunks)
        if count == 1:
            return single(state, first)
        # Not a loop inside one program: XLA runs the body of a loop far slower on CPU.
        totals = add(start(state, first), state.params, first)
        for chunk in itertools.islice(chunks, count - 1):
            totals = add(totals, state.params, chunk)
        return finish(state, totals, np.float32(count))

    return step


def _one_device(gradient: _ChunkGradient, optimizer: optax.GradientTransformation, mesh: Mesh):
    """Returns the parts of a step on one device: the whole of one chunk, begin, add, end."""
    whole = replicated(mesh)

    def run(params, batch_stats, chunk):
        grads, metrics, updates = gradient(params, _zeros(batch_stats), chunk)
        return _Totals(grads, metrics, fold_batch_stats(batch_stats, updates))

    def single(state, chunk):
        return _update(optimizer, state, run(state.params, state.batch_stats, chunk))

    def add(totals, params, chunk):
        new = run(params, totals.batch_stats, chunk)
        sums = jax.tree.map(jnp.add, (totals.grads, totals.metrics), (new.grads, new.metrics))
        return _Totals(*sums, new.batch_stats)

    def finish(state, totals, chunks):
        means = jax.tree.map(lambda x: x / chunks, (totals.grads, totals.metrics))
        return _update(optimizer, state, _Totals(*means, totals.batch_stats))

    placed = {"in_shardings": whole, "out_shardings": whole}
    return (
        jax.jit(single, **placed, donate_argnums=0),
        # The statistics are copied, for their memory will be reused.
        jax.jit(
            lambda state, chunk: _no_totals(
                gradient, state, chunk, jax.tree.map(jnp.copy, state.batch_stats)
            ),
            **placed,
        ),
        jax.jit(add, **placed, donate_argnums=0),
        jax.jit(finish, out_shardings=whole, donate_argnums=0),
    )


def _several_devices(gradient: _ChunkGradient, optimizer: optax.GradientTransformation, mesh: Mesh):
    """Returns the parts of a step on several devices, as :func:`_one_device`.

    The totals have a leading axis of devices: every device keeps its own. Statistics are linear in
    what the episodes make of them, so each device folds its own episodes, with the decay of all
    that come behind them, and the sum over devices is what running in order gives.
    """
    whole, spread = replicated(mesh), episodes_sharding(mesh)
    over_devices = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
    local, same = PartitionSpec(DATA_AXIS), PartitionSpec()

    def start(state, chunk):
        totals = _no_totals(gradient, state, chunk, _zeros(state.batch_stats))
        return jax.tree.map(lambda x: jnp.zeros((mesh.size, *x.shape), x.dtype), totals)

    @over_devices(in_specs=(local, same, local), out_specs=local)
    def add(totals, params, chunk):
        before = jax.tree.map(lambda x: x[0], totals)
        grads, metrics, updates = gradient(params, _zeros(before.batch_stats), chunk)
        sums = jax.tree.map(jnp.add, (before.grads, before.metrics), (grads, metrics))
        episodes = mesh.size * chunk["index"].shape[0]
        behind = (mesh.size - 1 - jax.lax.axis_index(DATA_AXIS)) * chunk["index"].shape[0]
        stats = fold_batch_stats(before.batch_stats, updates, episodes=episodes, behind=behind)
        return jax.tree.map(lambda x: x[None], _Totals(*sums, stats))

    def finish(state, totals, chunks):
        sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), totals)
        parts = mesh.size * chunks
        means = jax.tree.map(lambda x: x / parts, (sums.grads, sums.metrics))
        return _update(
            optimizer, state, _Totals(*means, _after(state.batch_stats, sums.batch_stats))
        )

    def single(state, chunk):
        return finish(state, add(start(state, chunk), state.params, chunk), 1.0)

    given = (whole, spread)
    return (
        jax.jit(single, in_shardings=given, out_shardings=whole, donate_argnums=0),
        jax.jit(start, in_shardings=given, out_shardings=spread),
        jax.jit(add, in_shardings=(spread, whole, spread), out_shardings=spread, donate_argnums=0),
        jax.jit(finish, in_shardings=(whole, spread, None), out_shardings=whole, donate_argnums=0),
    )


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

    def gradient(params, empty_stats, arrays):
        with using(precision), recomputation.using(remat):
            grads, (metrics, updates) = jax.grad(chunk_loss, has_aux=True)(
                params, empty_stats, arrays
            )
        return grads, metrics, updates

    return gradient


def _zeros(batch_stats: nnx.State) -> nnx.State:
    return jax.tree.map(jnp.zeros_like, batch_stats)


def _no_totals(
    gradient: _ChunkGradient, state: TrainState, chunk: Batch, batch_stats: nnx.State
) -> _Totals:
    """Sums over no chunks."""
    shapes = jax.eval_shape(
        lambda *arguments: gradient(*arguments)[1], state.params, _zeros(state.batch_stats), chunk
    )
    return _Totals(
        grads=jax.tree.map(jnp.zeros_like, state.params),
        metrics=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
        batch_stats=batch_stats,
    )


@jax.named_scope("optimizer")
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


def fold_batch_stats(
    running: nnx.State,
    updates: nnx.State,
    *,
    episodes: int | None = None,
    behind: Int[Array, ""] | int = 0,
) -> nnx.State:
    """Applies the statistics' updates of several episodes, in order, to the running statistics.

    An episode's ``k`` updates turn a running value ``r`` into ``0.9^k r + c``; ``c`` is what they
    make of zero. So ``E`` episodes give ``0.9^(k E) r + sum_e 0.9^(k (E - 1 - e)) c_e``.

    Args:
        running: statistics before the episodes.
        updates: with a leading episode axis, what each episode makes of statistics that are all
            zero.
        episodes: ``E``, where other devices have some of the episodes.
        behind: how many of these come behind the given ones.
    """
    given, made, flat = dict(nnx.to_flat_state(running)), dict(nnx.to_flat_state(updates)), {}
    for path, update in made.items():
        each, values = given[path], update[...]
        if path[-1] == _UPDATES:
            flat[path] = each.replace(each[...] + jnp.sum(values))
            continue
        keep = _kept(made[(*path[:-1], _UPDATES)][...][0], each[...].dtype)
        weights = keep ** jnp.arange(len(values) - 1, -1, -1, dtype=each[...].dtype)
        # In float32 whatever the networks compute in: rounding here would stay in the statistics.
        new = jnp.tensordot(weights, values, axes=1, precision=jax.lax.Precision.HIGHEST)
        if episodes is not None:
            new = keep**behind * new
        flat[path] = each.replace(keep ** (episodes or len(values)) * each[...] + new)
    return nnx.from_flat_state(flat)


# Name of the number of updates among the statistics of a batch normalization.
_UPDATES = "num_batches_tracked"


def _kept(updates: Int[Array, ""], dtype: jnp.dtype) -> Array:
    """Returns the share of a running statistic that so many updates leave of it."""
    return (1.0 - BATCH_NORM_MOMENTUM) ** updates.astype(dtype)


def _after(running: nnx.State, folded: nnx.State) -> nnx.State:
    """Returns the running statistics after updates that were folded into statistics of zero."""
    given, made, flat = dict(nnx.to_flat_state(running)), dict(nnx.to_flat_state(folded)), {}
    for path, new in made.items():
        each = given[path]
        if path[-1] == _UPDATES:
            flat[path] = each.replace(each[...] + new[...])
            continue
        keep = _kept(made[(*path[:-1], _UPDATES)][...], each[...].dtype)
        flat[path] = each.replace(keep * each[...] + new[...])
    return nnx.from_flat_state(flat)


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

"""The jitted training step and the jitted evaluation functions, over a mesh of devices."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from molo_jax.model import Episode, LossWeights, Matching, Tokens, loss_terms, total_loss
from molo_jax.model.layers import BATCH_NORM_MOMENTUM
from molo_jax.training.state import TrainState

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


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    *,
    preprocess: Callable[[Batch, Array], Episode],
    episode_key: Callable[[Int[Array, ""]], Array],
    weights: LossWeights,
    n_way: int,
    mesh: Mesh,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Builds the jitted optimizer step.

    The gradient is the mean over all episodes of the batch. Episodes of one chunk run side by side,
    spread over the mesh; chunks run one after another, so a large batch fits a small memory. The
    running batch-normalization statistics come out as if the episodes had run in order.

    A step whose loss or gradient is not finite leaves the state as it was; its metrics tell.

    Args:
        graphdef: the network's structure.
        optimizer: see :func:`molo_jax.training.optimizer.make_optimizer`.
        preprocess: turns the arrays of one episode and a key into the network's input.
        episode_key: the random key of an episode, from its index.
        weights: weights of the loss terms.
        n_way: number of classes of an episode.
        mesh: the devices.

    Returns:
        ``step(state, batch)``, whose batch is cut by :func:`chunked` and must hold ``index``, the
        episodes' indices; it returns the new state and the means over the batch of every loss term,
        of the ``loss``, the ``accuracy``, the ``class_accuracy`` of the auxiliary classifier, and
        the ``grad_norm``. The old state's memory is reused.
    """

    def episode_loss(params, empty_stats, arrays):
        augment_key, dropout_key = jax.random.split(episode_key(arrays["index"]))
        episode = preprocess(arrays, augment_key)
        model = nnx.merge(graphdef, params, empty_stats, copy=True)
        output = model(
            episode.support,
            episode.query,
            episode.support_labels,
            n_way=n_way,
            train=True,
            rngs=nnx.Rngs(dropout=dropout_key),
        )
        terms = loss_terms(output, episode)
        loss = total_loss(terms, weights)
        metrics = terms | {"loss": loss} | _accuracies(output, episode)
        return loss, (metrics, nnx.state(model, nnx.BatchStat))

    def chunk_loss(params, empty_stats, arrays):
        run = jax.vmap(episode_loss, in_axes=(None, None, 0))
        losses, (metrics, updates) = run(params, empty_stats, arrays)
        return jnp.mean(losses), (jax.tree.map(jnp.mean, metrics), updates)

    def chunk_gradient(params, batch_stats, arrays):
        empty = jax.tree.map(jnp.zeros_like, batch_stats)
        gradient = jax.grad(chunk_loss, has_aux=True)
        grads, (metrics, updates) = gradient(params, empty, arrays)
        return grads, metrics, fold_batch_stats(batch_stats, updates)

    def gradient(params, batch_stats, batch):
        chunks = jax.tree.leaves(batch)[0].shape[0]
        if chunks == 1:
            return chunk_gradient(params, batch_stats, jax.tree.map(lambda x: x[0], batch))

        def body(carry, arrays):
            total, stats = carry
            grads, metrics, stats = chunk_gradient(params, stats, arrays)
            return (jax.tree.map(jnp.add, total, grads), stats), metrics

        zeros = jax.tree.map(jnp.zeros_like, params)
        (total, stats), metrics = jax.lax.scan(body, (zeros, batch_stats), batch)
        mean = jax.tree.map(lambda x: x / chunks, total)
        return mean, jax.tree.map(jnp.mean, metrics), stats

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        grads, metrics, batch_stats = gradient(state.params, state.batch_stats, batch)
        metrics["grad_norm"] = optax.global_norm(grads)

        def apply(_):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            return TrainState(params, batch_stats, opt_state, state.step + 1)

        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        return jax.lax.cond(finite, apply, lambda _: state, None), metrics

    whole = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(whole, episodes_sharding(mesh)),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )


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
    return keep**episodes * running + jnp.tensordot(weights, updates, axes=1)


def _accuracies(output, episode: Episode) -> Metrics:
    classes = jnp.concatenate([episode.support_classes, episode.query_classes])
    return {
        "accuracy": jnp.mean(correct(output.logits, episode.query_labels)),
        "class_accuracy": jnp.mean(jnp.argmax(output.class_logits, axis=-1) == classes),
    }


def correct(matching: Matching, labels: Int[Array, "q"]) -> Bool[Array, "q"]:
    """Which queries are nearest to the prototype of their own class."""
    return jnp.argmax(matching.match, axis=-1) == labels


def make_embed(
    graphdef: nnx.GraphDef, *, preprocess: Callable[[Array], Array], mesh: Mesh
) -> Callable[[nnx.State, nnx.State, Array], Tokens]:
    """Builds the jitted ``embed(params, batch_stats, clips)`` from raw clips to tokens.

    Args:
        graphdef: the network's structure.
        preprocess: turns raw clips ``(v, t, r, r, 3)`` into normalized crops.
        mesh: the devices, over which the clips are spread; their number must divide that of the
            clips.
    """

    def embed(params, batch_stats, clips):
        return nnx.merge(graphdef, params, batch_stats).embed(preprocess(clips))

    whole = replicated(mesh)
    spread = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
    return jax.jit(embed, in_shardings=(whole, whole, spread), out_shardings=whole)


def make_match(
    graphdef: nnx.GraphDef, *, n_way: int
) -> Callable[[nnx.State, nnx.State, Tokens, Array, Array, Array], Float[Array, "e q n"]]:
    """Builds the jitted matching of many episodes among embedded clips.

    Returns:
        ``match(params, batch_stats, tokens, support, query, support_labels)`` with ``support (e,
        s)`` and ``query (e, q)`` the positions of the episodes' clips in ``tokens``; gives the
        match logits.
    """

    def episode_logits(model, tokens, support, query, labels):
        take = lambda which: jax.tree.map(lambda x: x[which], tokens)  # noqa: E731
        return model.match(take(support), take(query), labels, n_way=n_way).match

    @jax.jit
    def match(params, batch_stats, tokens, support, query, support_labels):
        model = nnx.merge(graphdef, params, batch_stats)
        one = lambda s, q, labels: episode_logits(model, tokens, s, q, labels)  # noqa: E731
        return jax.lax.map(lambda x: one(*x), (support, query, support_labels), batch_size=64)

    return match

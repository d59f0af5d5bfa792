"""The decisions of a float32 computation at kinks, and float64 computed with the same decisions.

MoLo has three kinds of kinks, where a gradient jumps: ReLU at zero, the maximum of a pooling window
and the minimum over frames of the matching, where two values are equal. If rounding puts a value on
the other side, the network's outputs hardly change but its gradients do, and both gradients are
right for their side. Computed in float64 with the decisions of float32, the gradients are those of
the side that float32 took, without its rounding.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from molo_jax.nn import convolution, matching, ops
from parity_tests import jax_backend
from parity_tests.case import Arrays, Case, Tensors
from parity_tests.recording import Recording

RELU, POOL, MINIMUM = "inputs of ReLU", "comparisons of max-pooling", "minima over frames"
# The minima in the order in which the network computes them: stream, over whose frames.
MINIMA = tuple(
    (stream, over) for stream in ("appearance", "motion") for over in ("support", "query")
)


@dataclasses.dataclass(frozen=True)
class Kink:
    """One place of the network with a kink in each of its values.

    Attributes:
        kind: `RELU`, `POOL` or `MINIMUM`.
        taken: what was decided: which inputs are positive, which view replaces the best one so far,
            or the number of the nearest frame.
        flips: how many decisions are not those that the values here would lead to.
        margin: how far the values are from the other decision, for the worst of these; of ReLU and
            max-pooling relative to the root of the mean square of the values.
        order: of a minimum: the numbers of the nearest and the second nearest frame (2, q, n, i).
        gaps: of a minimum: by how much the second nearest frame is farther (q, n, i).
    """

    kind: str
    taken: np.ndarray
    flips: int
    margin: float
    order: np.ndarray | None = None
    gaps: np.ndarray | None = None


class Gradients:
    """Computes an episode as `jax_backend.gradients`, with the decisions at its kinks.

    Args:
        case, tensors, double: as for `jax_backend.gradients`.
    """

    def __init__(self, case: Case, tensors: Tensors, *, double: bool = False):
        self._double, self._kinds = double, []
        with jax_backend.precision(double):
            graphdef, *self._network = jax_backend.make_network(case, tensors, double=double)

        def compute(params, stats, arrays, given):
            watch = _Watch(given)
            with watch.patched():
                total, recorded = jax_backend.run_episode(
                    graphdef, case, params, stats, arrays, train=True
                )
            self._kinds = watch.kinds
            return total, (recorded, watch.kinks)

        # Programs that run on small arrays are not worth optimizing.
        self._function = jax_backend.compiled(
            jax.value_and_grad(compute, has_aux=True), quick=case.size <= 64
        )
        # Of each kind of call. Kept here, where no clearing of JAX's caches removes them.
        self._programs: dict[bool, jax.stages.Compiled] = {}

    def __call__(
        self, episode: Arrays, given: Sequence[np.ndarray] | None = None
    ) -> tuple[Recording, list[Kink]]:
        """Computes an episode.

        Args:
            episode: its arrays.
            given: decisions to take instead of one's own: `taken` of each kink.
        """
        with jax_backend.precision(self._double):
            arguments = (*self._network, jax_backend.to_jax(episode, self._double), given)
            own = given is None
            if own not in self._programs:
                self._programs[own] = self._function.lower(*arguments).compile()
            (_, (recorded, found)), grads = jax.device_get(self._programs[own](*arguments))
        recording = jax_backend.to_recording(recorded, with_statistics=True)
        recording["gradients"] = jax_backend.by_name(grads)
        return recording, [
            Kink(kind, **kink) for kind, kink in zip(self._kinds, found, strict=True)
        ]


class _Watch:
    """Takes the place of the functions with kinks while a program is traced.

    Args:
        given: the decision at each kink in the order of the calls; None: those of the values.
    """

    def __init__(self, given: Sequence[jax.Array] | None):
        self._given = None if given is None else iter(given)
        self.kinds: list[str] = []
        self.kinks: list[dict[str, jax.Array]] = []

    @contextlib.contextmanager
    def patched(self) -> Iterator[None]:
        """The network's functions are these methods."""
        places = ((ops, "relu"), (ops, "max_pool"), (matching, "bi_mean_hausdorff"))
        usual = [getattr(module, name) for module, name in places]
        self._relu, self._max_pool, self._hausdorff = usual
        try:
            for module, name in places:
                setattr(module, name, getattr(self, name))
            yield
        finally:
            for (module, name), function in zip(places, usual, strict=True):
                setattr(module, name, function)

    def relu(self, x):
        taken = self._decide(RELU, x > 0, x, x)
        return self._relu(x) if self._given is None else jnp.where(taken, x, 0)

    def max_pool(self, x, *, window, stride, padding):
        first, *others = convolution.shifted(x, (window, window), stride, padding, fill=-jnp.inf)
        best = first
        for view in others:
            # Beyond the border two infinities may meet.
            distance = jnp.where(jnp.isinf(view) | jnp.isinf(best), jnp.inf, view - best)
            best = jnp.where(self._decide(POOL, view > best, distance, x), view, best)
        if self._given is None:
            return self._max_pool(x, window=window, stride=stride, padding=padding)
        return best

    def bi_mean_hausdorff(self, distances, *, single_direction=False):
        sums = [self._minimum(distances).sum(2)]
        if not single_direction:
            sums.append(self._minimum(jnp.swapaxes(distances, 2, 3)).sum(2))
        if self._given is None:
            return self._hausdorff(distances, single_direction=single_direction)
        return sum(sums)

    def _minimum(self, distances):
        order = jnp.moveaxis(jnp.argsort(distances, axis=3)[..., :2], 3, 0).astype(jnp.int32)
        smallest, second = (
            jnp.take_along_axis(distances, frame[..., None], axis=3)[..., 0] for frame in order
        )
        taken = order[0] if self._given is None else next(self._given)
        chosen = jnp.take_along_axis(distances, taken[..., None], axis=3)[..., 0]
        self._note(MINIMUM, taken, taken != order[0], chosen - smallest)
        self.kinks[-1] |= {"order": order, "gaps": jax.lax.stop_gradient(second - smallest)}
        return chosen

    def _decide(self, kind, own, distance, values):
        """Returns the decision to take; `distance` is how far from zero its own one is."""
        if self._given is None:
            # Whatever else would be noted is zero: memory for nothing.
            self.kinds.append(kind)
            self.kinks.append({"taken": own, "flips": np.int32(0), "margin": np.float32(0)})
            return own
        taken = next(self._given)
        scale = jnp.sqrt(jnp.mean(jnp.square(values)))
        self._note(kind, taken, taken != own, jnp.abs(distance) / scale)
        return taken

    def _note(self, kind, taken, flips, margin):
        self.kinds.append(kind)
        worst = jax.lax.stop_gradient(jnp.max(jnp.where(flips, margin, 0)))
        self.kinks.append({"taken": taken, "flips": jnp.sum(flips), "margin": worst})

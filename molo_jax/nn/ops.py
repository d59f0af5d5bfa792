"""Array operations with PyTorch's semantics, in the formulations that run fast on each backend.

Layout is channels-last: maps are ``(n, h, w, c)``, kernels ``(h, w, c_in, c_out)``. Every padding
is explicit and symmetric, as in PyTorch.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float

from molo_jax.nn import convolution
from molo_jax.nn.convolution import shifted
from molo_jax.nn.precision import current

# Programs that are written as ONNX, which are for inference alone.
ONNX = "onnx"
# The platform whose formulations are traced alone; None: all, and the device decides.
_PLATFORM: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """Traces the formulations of one platform alone (`cpu`, `cuda`, `onnx`).

    For programs that are counted or written to a file. Otherwise a program holds those of all
    platforms until it is compiled.
    """
    before = _PLATFORM.set(platform)
    try:
        yield
    finally:
        _PLATFORM.reset(before)


def traced_platform() -> str:
    """Returns the platform of :func:`traced_for`, or that of JAX's default device."""
    return _PLATFORM.get() or jax.default_backend()


def _by_platform(cpu: Callable, default: Callable, *arguments: Array):
    platform = _PLATFORM.get()
    if platform is None:
        return lax.platform_dependent(*arguments, cpu=cpu, default=default)
    return (cpu if platform == "cpu" else default)(*arguments)


def to_activations(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Rounds float32 to the type of activations of the current precision; others stay."""
    return x.astype(current().activations) if x.dtype == jnp.float32 else x


def to_float32(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Widens bfloat16, for what must not be computed in it; other types stay."""
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x


def product(
    subscripts: str, a: Array, b: Array, *, preferred_element_type: str | None = None
) -> Array:
    """Computes ``jnp.einsum`` of two arrays of one type in the current precision.

    Products of bfloat16 are exact and summed in float32, so they need no precision.
    """
    return jnp.einsum(
        subscripts,
        a,
        b,
        precision=product_precision(a),
        preferred_element_type=preferred_element_type,
    )


def product_precision(x: Array) -> str:
    """Returns the precision of a matrix product whose operands have the type of an array."""
    return "default" if x.dtype == jnp.bfloat16 else current().products


def conv2d(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c f"],
    *,
    stride: int = 1,
    padding: int = 0,
) -> Float[Array, "n oh ow f"]:
    """Computes a 2-D cross-correlation with symmetric zero padding, as ``torch.conv2d``.

    On CPU, XLA's convolution is slow on maps of a few pixels, so there the same sums are written as
    matrix products: a 1x1 kernel as a product over channels, maps of up to 2x2 pixels as one dense
    matrix, other small maps as patches times kernel. All formulations agree up to rounding.

    The operands and the result have the current precision's type of activations, sums are float32.

    Args:
        x: input maps.
        kernel: convolution kernel.
        stride: step between output positions, in pixels, the same for both axes.
        padding: zeros added on each of the four sides, in pixels.

    Returns:
        Maps with ``oh = (h + 2 padding - kh) // stride + 1`` rows, likewise columns.
    """
    x, kernel = to_activations(x), to_activations(kernel)
    with _named(x, kernel):
        return _conv2d(x, kernel, stride, padding, current().convolutions)


def _named(x: Array, kernel: Array) -> contextlib.AbstractContextManager:
    """Names a convolution in profiles, by the sizes of kernel and maps."""
    height, width = kernel.shape[:2]
    return jax.named_scope(f"conv_{height}x{width}_on_{x.shape[1]}")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv2d(x: Array, kernel: Array, stride: int, padding: int, precision: str) -> Array:
    """Computes the convolution in the formulation of the platform.

    For the gradient it keeps maps and kernel alone: else both formulations would keep theirs.
    """
    fast, xla = (
        functools.partial(each, stride=stride, padding=padding, precision=precision)
        for each in (
            convolution.fast_on_cpu(x.shape, kernel.shape, stride, padding),
            convolution.by_xla,
        )
    )
    return _by_platform(fast, xla, x, kernel)


def _conv2d_forward(x, kernel, *static):
    return _conv2d(x, kernel, *static), (x, kernel)


def _conv2d_backward(stride, padding, precision, kept, of_y):
    static = {"stride": stride, "padding": padding, "precision": precision}

    def differentiated(x, kernel, of_y):
        return jax.vjp(functools.partial(convolution.by_xla, **static), x, kernel)[1](of_y)

    of_operands = functools.partial(convolution.gradient_on_cpu, **static)
    with _named(*kept):
        return _by_platform(of_operands, differentiated, *kept, of_y)


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def max_pool(x: Float[Array, "n h w c"], *, window: int, stride: int, padding: int):
    """Takes the maximum over square windows, padded with minus infinity, as ``torch.max_pool2d``.

    Written as a running maximum over shifted views: several times faster on CPU than XLA's windowed
    reduction and its gradient. Among equal maxima the gradient goes to the first in row-major
    order, as in PyTorch, and a NaN anywhere in a window is its maximum. For the gradient it keeps
    one byte for each output, the place of its maximum.
    """
    if _PLATFORM.get() == ONNX:
        return _max_pool_by_axes(x, window, stride, padding)
    return _max_pool(x, window, stride, padding)


def _max_pool_by_axes(x: Array, window: int, stride: int, padding: int) -> Array:
    """Takes the maximum over rows, then over columns: few operations, and nothing kept."""
    out = convolution.out_size(x.shape[1:3], (window, window), stride, padding)
    pad = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    x = jnp.pad(x, pad, constant_values=-jnp.inf)
    for axis, size in zip((1, 2), out, strict=True):
        views = (
            lax.slice_in_dim(x, tap, tap + (size - 1) * stride + 1, stride, axis)
            for tap in range(window)
        )
        x = functools.reduce(jnp.maximum, views)
    return x


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: Array, window: int, stride: int, padding: int) -> Array:
    return _max_pool_forward(x, window, stride, padding)[0]


@jax.named_scope("max_pool")
def _max_pool_forward(x, window, stride, padding):
    first, *others = shifted(x, (window, window), stride, padding, fill=-jnp.inf)
    best, place = first, jnp.zeros(first.shape, jnp.uint8)
    for number, view in enumerate(others, 1):
        # No comparison with a NaN holds, so one that is not first would be passed over.
        larger = (view > best) | jnp.isnan(view)
        best = jnp.where(larger, view, best)
        place = jnp.where(larger, jnp.uint8(number), place)
    # Of the input only the shape is needed, which an array without elements has.
    return best, (place, jnp.zeros((0, *x.shape[1:3]), x.dtype))


@jax.named_scope("max_pool")
def _max_pool_backward(window, stride, padding, kept, of_y):
    """Sums what comes to an input pixel from the windows that it is the maximum of.

    Input pixels whose positions have the same remainders by the stride see the same taps. So their
    sums are small maps, which are then interleaved: no map of the size of the input for each tap.
    """
    place, like = kept
    height, width = like.shape[1:]
    beyond = (window - 1) // stride
    count, rows, columns, channels = of_y.shape
    small = count, rows + beyond, columns + beyond, channels

    def of_remainder(row, column):
        # From the last tap to the first, so that the order of the sums is that of the running
        # maximum's own gradient.
        taps = [
            (dy, dx)
            for dy in reversed(range(row, window, stride))
            for dx in reversed(range(column, window, stride))
        ]
        total = jnp.zeros(small, of_y.dtype)
        for dy, dx in taps:
            part = jnp.where(place == dy * window + dx, of_y, 0)
            down, right = dy // stride, dx // stride
            edges = ((0, 0), (down, beyond - down), (right, beyond - right), (0, 0))
            total += jnp.pad(part, edges)
        return total

    interleaved = [
        jnp.stack([of_remainder(row, column) for column in range(stride)], axis=3)
        for row in range(stride)
    ]
    whole = rearrange(jnp.stack(interleaved, axis=2), "n h r w s c -> n (h r) (w s) c")
    # Pixels at the end that no window reaches.
    down, right = (
        max(padding + size - has, 0)
        for size, has in zip((height, width), whole.shape[1:3], strict=True)
    )
    whole = jnp.pad(whole, ((0, 0), (0, down), (0, right), (0, 0)))
    return (whole[:, padding : padding + height, padding : padding + width],)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


@jax.custom_vjp
def relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Computes ``max(x, 0)``; the gradient at 0 is 0, as in PyTorch.

    For its gradient it keeps its output, which the next convolution keeps anyway.
    """
    return jnp.maximum(x, 0)


@jax.named_scope("relu")
def _relu_forward(x):
    y = jnp.maximum(x, 0)
    return y, y


@jax.named_scope("relu")
def _relu_backward(y, of_y):
    return (jnp.where(y > 0, of_y, 0),)


relu.defvjp(_relu_forward, _relu_backward)


def upsampling_matrix(size: int, factor: int) -> Float[np.ndarray, "out size"]:
    """Weights of linear interpolation from ``size`` to ``factor * size`` points, corners aligned.

    Output point ``i`` reads position ``i (size - 1) / (factor size - 1)``. With one input point
    every output equals it.
    """
    out = size * factor
    position = np.arange(out) * ((size - 1) / max(out - 1, 1))
    low = np.minimum(position.astype(np.int64), size - 1)
    high = np.minimum(low + 1, size - 1)
    weights = np.zeros((out, size), np.float64)
    np.add.at(weights, (np.arange(out), low), 1.0 - (position - low))
    np.add.at(weights, (np.arange(out), high), position - low)
    return weights


def upsample(x: Float[Array, "n h w c"], factor: int) -> Float[Array, "n fh fw c"]:
    """Bilinear upsampling with aligned corners (PyTorch's ``align_corners=True``)."""
    rows = upsampling_matrix(x.shape[1], factor).astype(x.dtype)
    columns = upsampling_matrix(x.shape[2], factor).astype(x.dtype)
    return _convolved("oh,nhwc,pw->nopc", rows, x, columns)


def _convolved(subscripts: str, *operands: Array | np.ndarray) -> Array:
    """Computes ``jnp.einsum`` in the current precision of convolutions."""
    return jnp.einsum(subscripts, *operands, precision=current().convolutions)


@jax.named_scope("upsample_conv")
def upsample_conv3x3(
    x: Float[Array, "n h w c"], kernel: Float[Array, "3 3 c f"], factor: int
) -> Float[Array, "n fh fw f"]:
    """Computes ``conv2d(upsample(x, factor), kernel, padding=1)`` without the large middle map.

    Upsampling and convolution are both linear and act on different axes, so the channel sums are
    done first, on the small map, and interpolation and shift of each tap become one matrix for each
    axis: ``y = sum over taps (a, b) of R_a (x K_ab) C_b^T`` with ``R_a`` the interpolation matrix
    shifted by ``a`` rows with a zero row at the border.
    """
    x, kernel = to_activations(x), to_activations(kernel)
    rows, columns = (_shifted_upsampling(size, factor).astype(x.dtype) for size in x.shape[1:3])
    channels = _convolved("nhwc,abcf->nhawbf", x, kernel)
    wide = _convolved("pbw,nhawbf->nhapf", columns, channels)
    return _convolved("oah,nhapf->nopf", rows, wide)


def _shifted_upsampling(size: int, factor: int) -> Float[np.ndarray, "out 3 size"]:
    padded = np.pad(upsampling_matrix(size, factor), ((1, 1), (0, 0)))
    return np.stack([padded[tap : tap + size * factor] for tap in range(3)], axis=1)


def safe_norm(x: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """Euclidean norm of the last axis whose gradient at a zero vector is zero."""
    squares = jnp.sum(x * x, axis=-1)
    # Not `squares > 0`, which does not hold for a NaN: its norm is NaN and not zero.
    zero = squares == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squares)))

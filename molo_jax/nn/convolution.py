"""Formulations of a 2-D convolution: XLA's own, and those that are faster on a CPU.

Maps are ``(n, h, w, c)``, kernels ``(h, w, c_in, c_out)``. All compute the same sums in another
order.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import custom_batching, lax
from jaxtyping import Array

# Largest number of (output pixel, input pixel) pairs for which a convolution is written as one
# dense matrix product; beyond it most entries of that matrix would be zero.
_DENSE_PAIRS = 16
# Largest number of output pixels for which gathering the patches of all maps beats XLA.
_PATCH_PIXELS = 16
# The same for a kernel of at least so many numbers.
_WIDE_PIXELS, _WIDE_KERNEL = 64, 2**23
# Output pixels whose patches are gathered at a time for the gradient by the kernel: so many fit
# the cache, and fewer would leave the cores without work.
_GATHERED_PIXELS = 800


def fast_on_cpu(
    shape: tuple[int, ...], kernel: tuple[int, ...], stride: int, padding: int
) -> Callable[..., Array]:
    """Returns the formulation that is fastest on a CPU for maps and kernels of these shapes."""
    if kernel[:2] == (1, 1) and padding == 0:
        return _pointwise
    out_h, out_w = out_size(shape[1:3], kernel[:2], stride, padding)
    if out_h * out_w * shape[1] * shape[2] <= _DENSE_PAIRS:
        return _dense
    pixels = out_h * out_w
    wide = pixels <= _WIDE_PIXELS and math.prod(kernel) >= _WIDE_KERNEL
    return _patches if pixels <= _PATCH_PIXELS or wide else by_xla


def gradient_on_cpu(
    x: Array, kernel: Array, of_y: Array, *, stride: int, padding: int, precision: str
) -> tuple[Array, Array]:
    """Returns the gradients of the operands of :func:`fast_on_cpu`, from that of the result."""
    convolve = fast_on_cpu(x.shape, kernel.shape, stride, padding)
    static = {"stride": stride, "padding": padding, "precision": precision}
    pixels = of_y.shape[1] * of_y.shape[2]
    if convolve is _dense or (convolve is _patches and pixels <= _PATCH_PIXELS):
        return jax.vjp(lambda *operands: convolve(*operands, **static), x, kernel)[1](of_y)
    (of_x,) = jax.vjp(lambda x: convolve(x, kernel, **static), x)[1](of_y)
    gradient = _of_pointwise_kernel if convolve is _pointwise else _of_kernel

    @custom_batching.custom_vmap
    def of_kernel(x, of_y):
        return gradient(x, of_y, kernel.shape, **static).astype(kernel.dtype)

    @of_kernel.def_vmap
    def _one_by_one(size, batched, x, of_y):
        # A further axis of the products would be slow.
        def one(number):
            each = zip((x, of_y), batched, strict=True)
            return of_kernel(*(many[number] if of_it else many for many, of_it in each))

        return (one(0)[None] if size == 1 else lax.map(one, jnp.arange(size))), True

    return of_x, of_kernel(x, of_y)


def _of_kernel(x, of_y, shape, *, stride, padding, precision):
    """Gathers the patches of a few maps at a time, and multiplies them by the gradient.

    XLA takes the gradient for a kernel as large as the map, and transposes the map for it.
    """
    n, height, width, f = of_y.shape
    at_once = math.gcd(n, max(1, _GATHERED_PIXELS // (height * width)))

    def patches(x):
        return jnp.concatenate(shifted(x, shape[:2], stride, padding, fill=0.0), axis=-1)

    def add(total, maps):
        x, of_y = maps
        return total + _summed_products(patches(x), of_y, precision), None

    columns = math.prod(shape[:3])
    size = (columns, f) if columns < f else (f, columns)
    zero = jnp.zeros(size, jnp.promote_types(jnp.float32, x.dtype))
    parts = [each.reshape(n // at_once, at_once, *each.shape[1:]) for each in (x, of_y)]
    total, _ = lax.scan(add, zero, tuple(parts))
    return (total if columns < f else total.T).reshape(shape)


def _of_pointwise_kernel(x, of_y, shape, *, stride, padding, precision):
    del padding
    products = _summed_products(x[:, ::stride, ::stride], of_y, precision)
    return (products if x.shape[-1] < of_y.shape[-1] else products.T).reshape(shape)


def _summed_products(a: Array, b: Array, precision: str) -> Array:
    """Multiplies each channel of one array by each of the other, summed over the other axes.

    The rows of the result are the channels of the array with fewer of them, for XLA is several
    times slower at the other order, and at arrays that are not flat.
    """
    few, many = (a, b) if a.shape[-1] < b.shape[-1] else (b, a)
    few, many = (each.reshape(-1, each.shape[-1]) for each in (few, many))
    kind = jnp.promote_types(jnp.float32, a.dtype)
    return jnp.einsum("kc,kf->cf", few, many, precision=precision, preferred_element_type=kind)


def out_size(size: tuple[int, ...], kernel: tuple[int, ...], stride: int, padding: int):
    """Returns height and width of the result."""
    return tuple((s + 2 * padding - k) // stride + 1 for s, k in zip(size, kernel, strict=True))


def by_xla(x: Array, kernel: Array, *, stride: int, padding: int, precision: str) -> Array:
    """Computes the convolution as XLA does."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def _pointwise(x: Array, kernel: Array, *, stride: int, padding: int, precision: str) -> Array:
    del padding
    x = x[:, ::stride, ::stride]
    return jnp.einsum("nhwc,cf->nhwf", x, kernel[0, 0], precision=precision)


def _dense(x: Array, kernel: Array, *, stride: int, padding: int, precision: str) -> Array:
    """Multiplies all input pixels by a matrix that holds, for each pixel pair, its kernel tap."""
    (h, w), (kh, kw) = x.shape[1:3], kernel.shape[:2]
    out_h, out_w = out_size((h, w), (kh, kw), stride, padding)
    zero = jnp.zeros_like(kernel[0, 0])

    def tap(out_y, out_x, in_y, in_x):
        dy, dx = in_y - out_y * stride + padding, in_x - out_x * stride + padding
        return kernel[dy, dx] if 0 <= dy < kh and 0 <= dx < kw else zero

    rows = [
        jnp.concatenate([tap(oy, ox, iy, ix) for oy in range(out_h) for ox in range(out_w)], axis=1)
        for iy in range(h)
        for ix in range(w)
    ]
    matrix = jnp.concatenate(rows, axis=0)
    flat = jnp.matmul(rearrange(x, "n h w c -> n (h w c)"), matrix, precision=precision)
    return rearrange(flat, "n (h w f) -> n h w f", h=out_h, w=out_w)


def _patches(x: Array, kernel: Array, *, stride: int, padding: int, precision: str) -> Array:
    """Gathers every kernel window as one long vector and multiplies by the flattened kernel."""
    kh, kw = kernel.shape[:2]
    patches = jnp.concatenate(shifted(x, (kh, kw), stride, padding, fill=0.0), axis=-1)
    matrix = rearrange(kernel, "kh kw c f -> (kh kw c) f")
    return jnp.einsum("nhwp,pf->nhwf", patches, matrix, precision=precision)


def shifted(x: Array, window: tuple[int, int], stride: int, padding: int, fill: float):
    """The input seen through each tap of a window, in row-major order of the taps."""
    out_h, out_w = out_size(x.shape[1:3], window, stride, padding)
    pad = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(x, pad, constant_values=fill)
    return [
        padded[
            :,
            dy : dy + (out_h - 1) * stride + 1 : stride,
            dx : dx + (out_w - 1) * stride + 1 : stride,
        ]
        for dy in range(window[0])
        for dx in range(window[1])
    ]

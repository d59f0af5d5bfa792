"""Operations against direct sums and against the library's own formulation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from molo_jax.nn import convolution, ops


def _normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _direct_conv(x, kernel, stride, padding):
    n, h, w, _ = x.shape
    kh, kw, _, f = kernel.shape
    padded = np.pad(x.astype(np.float64), ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
    out = np.zeros(
        (n, (h + 2 * padding - kh) // stride + 1, (w + 2 * padding - kw) // stride + 1, f)
    )
    for y in range(out.shape[1]):
        for z in range(out.shape[2]):
            window = padded[:, y * stride : y * stride + kh, z * stride : z * stride + kw]
            out[:, y, z] = np.einsum("nhwc,hwcf->nf", window, kernel.astype(np.float64))
    return out


CONVOLUTIONS = {
    "stem 7x7": (13, 11, 7, 2, 3),
    "3x3 on a large map": (9, 7, 3, 1, 1),
    "3x3 stride 2 to patches": (7, 5, 3, 2, 1),
    "3x3 on 4x4, patches": (4, 4, 3, 1, 1),
    "3x3 on 2x2, dense": (2, 2, 3, 1, 1),
    "3x3 stride 2 on 2x2, dense": (2, 2, 3, 2, 1),
    "3x3 on one pixel, dense": (1, 1, 3, 1, 1),
    "3x3 on a 1x3 row": (1, 3, 3, 1, 1),
    "1x1": (5, 3, 1, 1, 0),
    "1x1 stride 2": (5, 3, 1, 2, 0),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv2d_equals_the_direct_sum(case):
    h, w, size, stride, padding = CONVOLUTIONS[case]
    x, kernel = _normal(0, 3, h, w, 5), _normal(1, size, size, 5, 2)
    y = ops.conv2d(jnp.asarray(x), jnp.asarray(kernel), stride=stride, padding=padding)
    np.testing.assert_allclose(y, _direct_conv(x, kernel, stride, padding), atol=2e-5)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv2d_has_the_gradients_of_the_library_convolution(case):
    h, w, size, stride, padding = CONVOLUTIONS[case]
    x, kernel = jnp.asarray(_normal(0, 3, h, w, 5)), jnp.asarray(_normal(1, size, size, 5, 2))

    def gradients(convolve):
        loss = lambda x, k: jnp.sum(jnp.sin(convolve(x, k, stride=stride, padding=padding)))  # noqa: E731
        return jax.grad(loss, argnums=(0, 1))(x, kernel)

    library = functools.partial(convolution.by_xla, precision="highest")
    for ours, theirs in zip(gradients(ops.conv2d), gradients(library), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv2d_keeps_its_operands_and_nothing_else_for_its_gradient(case):
    h, w, size, stride, padding = CONVOLUTIONS[case]
    x, kernel = _normal(0, 3, h, w, 5), _normal(1, size, size, 5, 2)
    convolve = functools.partial(ops.conv2d, stride=stride, padding=padding)
    kept = jax.eval_shape(lambda *operands: jax.vjp(convolve, *operands)[1], x, kernel)
    assert [leaf.shape for leaf in jax.tree.leaves(kept)] == [x.shape, kernel.shape]


def test_relu_has_the_gradient_of_pytorch_and_keeps_its_output():
    x = jnp.asarray([-2.0, 0.0, 3.0, np.nan])
    y, back = jax.vjp(ops.relu, x)
    np.testing.assert_array_equal(y, [0.0, 0.0, 3.0, np.nan])
    np.testing.assert_array_equal(back(jnp.asarray([5.0, 6.0, 7.0, 8.0]))[0], [0, 0, 7, 0])
    np.testing.assert_array_equal(jax.tree.leaves(back), [y])


def test_max_pool_takes_the_maximum_of_each_padded_window():
    x = -np.arange(1, 13, dtype=np.float32).reshape(1, 3, 4, 1)
    y = ops.max_pool(jnp.asarray(x), window=3, stride=2, padding=1)
    np.testing.assert_array_equal(y[0, :, :, 0], [[-1, -2], [-5, -6]])


def test_max_pool_of_a_program_that_is_written_as_onnx_takes_the_same_maxima():
    x = _normal(3, 2, 9, 8, 3)
    pool = lambda x: ops.max_pool(x, window=3, stride=2, padding=1)  # noqa: E731
    with ops.traced_for(ops.ONNX):
        by_axes, operations = pool(jnp.asarray(x)), str(jax.make_jaxpr(pool)(x))
    assert "select_n" not in operations
    np.testing.assert_array_equal(by_axes, pool(jnp.asarray(x)))


def test_max_pool_sends_the_gradient_of_equal_maxima_to_the_first():
    pooled = lambda x: jnp.sum(ops.max_pool(x, window=3, stride=2, padding=1))  # noqa: E731
    grad = jax.grad(pooled)(jnp.ones((1, 3, 3, 1)))[0, :, :, 0]
    np.testing.assert_array_equal(grad, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


def _passing_over_nan(x, *, window, stride, padding):
    """The maximum as it was taken before NaN counted: for finite input the same."""
    first, *others = convolution.shifted(x, (window, window), stride, padding, fill=-jnp.inf)
    best = first
    for view in others:
        best = jnp.where(view > best, view, best)
    return best


def _bits(array):
    return np.asarray(array).tobytes()


def _values_and_gradients(function, x, weights):
    value, pull = jax.vjp(function, x)
    return _bits(value), _bits(pull(weights)[0])


@pytest.mark.parametrize("run", [lambda f: f, jax.jit], ids=["eager", "compiled"])
@pytest.mark.parametrize("kind", ["distinct", "ties", "signed zeros and infinities"])
def test_max_pool_of_finite_input_keeps_every_bit_of_value_and_gradient(run, kind):
    x = _normal(4, 5, 17, 13, 7)
    if kind == "ties":
        x = np.round(x).clip(0, None)
    if kind.startswith("signed"):
        x = np.random.default_rng(4).choice(np.float32([-np.inf, -0.0, 0.0, np.inf]), x.shape)
    x, weights = jnp.asarray(x), jnp.asarray(_normal(5, 5, 9, 7, 7))
    new, old = (
        _values_and_gradients(run(lambda v, f=f: f(v, window=3, stride=2, padding=1)), x, weights)
        for f in (ops.max_pool, _passing_over_nan)
    )
    assert new == old


@pytest.mark.parametrize("run", [lambda f: f, jax.jit], ids=["eager", "compiled"])
@pytest.mark.parametrize("place", range(9))
def test_a_nan_anywhere_in_a_window_is_its_maximum_and_gets_the_gradient(run, place):
    x = np.arange(9, dtype=np.float32)
    x[place] = np.nan
    pool = run(lambda v: ops.max_pool(v, window=3, stride=1, padding=0))
    value, pull = jax.vjp(pool, jnp.asarray(x.reshape(1, 3, 3, 1)))
    assert np.isnan(value).tolist() == [[[[True]]]]
    gradient = np.asarray(pull(jnp.ones_like(value))[0]).ravel()
    np.testing.assert_array_equal(gradient, np.eye(9)[place])


def test_max_pool_passes_nan_on_as_pytorch_does():
    import torch

    x = _normal(6, 3, 9, 7, 5)
    x[np.random.default_rng(7).random(x.shape) < 0.05] = np.nan
    ours = ops.max_pool(jnp.asarray(x), window=3, stride=2, padding=1)
    channels_first = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    theirs = torch.nn.functional.max_pool2d(channels_first, 3, 2, 1).numpy().transpose(0, 2, 3, 1)
    assert 0 < np.isnan(theirs).mean() < 1
    np.testing.assert_array_equal(ours, theirs)


def test_upsampling_matrix_aligns_the_corners():
    expected = [[1, 0], [2 / 3, 1 / 3], [1 / 3, 2 / 3], [0, 1]]
    np.testing.assert_allclose(ops.upsampling_matrix(2, 2), expected, atol=1e-7)


def test_upsampling_repeats_a_single_pixel():
    np.testing.assert_array_equal(ops.upsampling_matrix(1, 4), np.ones((4, 1)))


def test_upsample_interpolates_both_axes():
    x = np.array([[0.0, 3.0, 6.0], [9.0, 12.0, 15.0]], np.float32)[None, :, :, None]
    y = ops.upsample(jnp.asarray(x), 2)[0, :, :, 0]
    np.testing.assert_allclose(y[:, 0], [0, 3, 6, 9], atol=1e-6)
    np.testing.assert_allclose(y[0], [0, 1.2, 2.4, 3.6, 4.8, 6.0], atol=1e-6)


@pytest.mark.parametrize(("h", "w", "factor"), [(1, 1, 2), (2, 3, 4), (7, 5, 2)])
def test_upsample_conv_equals_upsampling_followed_by_convolution(h, w, factor):
    x, kernel = jnp.asarray(_normal(2, 3, h, w, 5)), jnp.asarray(_normal(3, 3, 3, 5, 2))

    def two_steps(x, kernel, factor):
        return ops.conv2d(ops.upsample(x, factor), kernel, padding=1)

    for f in (lambda g: g, lambda g: jax.grad(lambda *a: jnp.sum(jnp.sin(g(*a))), argnums=(0, 1))):
        ours = f(lambda x, k: ops.upsample_conv3x3(x, k, factor))(x, kernel)
        plain = f(lambda x, k: two_steps(x, k, factor))(x, kernel)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), ours, plain)


def test_safe_norm_is_the_norm_with_zero_gradient_at_zero():
    x = jnp.asarray([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(ops.safe_norm(x), [5.0, 0.0])
    grad = jax.grad(lambda x: jnp.sum(ops.safe_norm(x)))(x)
    np.testing.assert_allclose(grad, [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)


def test_the_norm_of_a_vector_with_a_nan_is_nan_and_of_others_every_bit_as_it_was():
    def before(x):
        squares = jnp.sum(x * x, axis=-1)
        positive = squares > 0
        return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)

    x, weights = _normal(8, 31, 6), jnp.asarray(_normal(9, 31))
    x[::5] = 0
    for run in (lambda f: f, jax.jit):
        new, old = (
            _values_and_gradients(run(f), jnp.asarray(x), weights) for f in (ops.safe_norm, before)
        )
        assert new == old
    x[3, 2] = np.nan
    np.testing.assert_array_equal(np.isnan(ops.safe_norm(jnp.asarray(x))), np.arange(31) == 3)


@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (3, 1, 1), (2, 3, 0)]
)
def test_the_gradient_of_max_pool_has_the_bits_of_the_running_maximum_s_own(
    window, stride, padding
):
    x = jnp.asarray(np.round(_normal(8, 3, 17, 13, 7), 1))
    options = {"window": window, "stride": stride, "padding": padding}
    result, backward = jax.vjp(lambda v: ops.max_pool(v, **options), x)
    weights = jnp.asarray(_normal(9, *result.shape))
    plain, plain_backward = jax.vjp(lambda v: _passing_over_nan(v, **options), x)
    np.testing.assert_array_equal(result, plain)
    np.testing.assert_array_equal(backward(weights)[0], plain_backward(weights)[0])


def test_max_pool_keeps_one_byte_for_each_output():
    x = jnp.asarray(_normal(8, 2, 16, 16, 4))
    pool = lambda v: ops.max_pool(v, window=3, stride=2, padding=1)  # noqa: E731
    kept = jax.tree.leaves(jax.eval_shape(lambda v: jax.vjp(pool, v)[1], x))
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in kept) == 2 * 8 * 8 * 4

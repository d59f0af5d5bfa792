import jax
import jax.numpy as jnp
import numpy as np
import pytest

from molo_jax.engine.program import flops, output_bytes, peak_bytes, trace

# Stride, side of the kernel, padding.
CONVOLUTIONS = [(1, 3, 1), (2, 3, 1), (2, 1, 0), (2, 7, 3)]


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def convolve(x, kernel, stride=1, padding=0):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((padding, padding),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def test_a_matrix_product_has_two_operations_for_each_product_of_two_numbers():
    program, _ = trace(lambda a, b: a @ b, shape(3, 5), shape(5, 7))
    assert flops(program) == 2 * 3 * 5 * 7
    program, _ = trace(
        lambda a, b: jnp.einsum("bij,bkj->bik", a, b), shape(4, 3, 5), shape(4, 2, 5)
    )
    assert flops(program) == 2 * 4 * 3 * 2 * 5


def test_a_convolution_counts_the_padding_or_leaves_it_out():
    def convolved(x, kernel):
        return convolve(x, kernel, padding=1)

    program, _ = trace(convolved, shape(2, 4, 4, 3), shape(3, 3, 3, 5))
    assert flops(program) == 2 * 2 * (4 * 3) ** 2 * 3 * 5
    # Of the three taps on each axis, the first misses the map once and the last misses it once.
    assert flops(program, padding=False) == 2 * 2 * (4 * 3 - 2) ** 2 * 3 * 5


@pytest.mark.parametrize(
    ("stride", "size", "padding"), [(1, 3, 1), (2, 3, 1), (2, 1, 0), (2, 7, 3)]
)
def test_the_gradient_of_a_convolution_has_twice_its_operations(stride, size, padding):
    def convolved(x, kernel):
        return convolve(x, kernel, stride, padding)

    def gradient(x, kernel):
        result, backward = jax.vjp(convolved, x, kernel)
        return backward(result)

    shapes = shape(2, 8, 8, 3), shape(size, size, 3, 5)
    forward, both = (trace(function, *shapes)[0] for function in (convolved, gradient))
    for count_padding in (True, False):
        once = flops(forward, padding=count_padding)
        assert flops(both, padding=count_padding) == 3 * once


@pytest.mark.parametrize(
    ("stride", "size", "padding"), [(1, 3, 1), (2, 3, 1), (2, 1, 0), (2, 7, 3)]
)
def test_without_padding_a_convolution_has_the_operations_of_the_compiler(stride, size, padding):
    def convolved(x, kernel):
        return convolve(x, kernel, stride, padding)

    shapes = shape(2, 8, 8, 3), shape(size, size, 3, 5)
    counted = flops(trace(convolved, *shapes)[0], padding=False)
    compiled = jax.jit(convolved).lower(*shapes).compile()
    assert counted == compiled.cost_analysis()["flops"]


def test_a_loop_counts_as_often_as_it_runs_and_a_choice_as_its_largest_branch():
    def loop(x, w):
        return jax.lax.scan(lambda carry, _: (carry @ w, None), x, length=6)[0]

    program, _ = trace(loop, shape(2, 3), shape(3, 3))
    assert flops(program) == 6 * 2 * 2 * 3 * 3

    def choice(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x @ w @ w)

    program, _ = trace(choice, shape(2, 3), shape(3, 3))
    assert flops(program) == 2 * (2 * 2 * 3 * 3)


def test_what_no_output_depends_on_is_not_counted():
    def function(x, w):
        unused = x @ w
        return jax.jit(lambda a, b: (a @ b, unused @ b))(x, w)[0]

    program, _ = trace(function, shape(2, 3), shape(3, 3))
    assert flops(program) == 2 * 2 * 3 * 3


def test_an_output_in_two_shapes_is_counted_once_and_an_input_not_at_all():
    def function(x, w):
        y = x @ w
        return y, y.reshape(-1), x, jnp.exp(y)

    program, _ = trace(function, shape(2, 3), shape(3, 5))
    assert output_bytes(program) == 2 * (2 * 5) * 4


def test_the_bytes_are_those_of_the_type():
    program, _ = trace(lambda x: (x > 0, x.astype(jnp.bfloat16)), shape(2, 3))
    assert output_bytes(program) == 6 * 1 + 6 * 2


def test_a_value_lives_from_the_operation_that_makes_it_to_the_last_that_reads_it():
    square = shape(8, 8)
    size = 8 * 8 * 4

    # Two products at a time, though there are four of them; the last one is the output.
    def chain(x, w):
        return x @ w @ w @ w @ w

    assert peak_bytes(trace(chain, square, square)[0]) == 2 * size

    # The first product is needed at the end as well.
    def kept(x, w):
        first = x @ w
        return first @ (first @ w @ w)

    assert peak_bytes(trace(kept, square, square)[0]) == 3 * size


def test_what_one_operation_reads_element_by_element_is_not_stored():
    square = shape(8, 8)
    size = 8 * 8 * 4

    def merged(x, w):
        return jnp.sum(jnp.tanh(jnp.exp(x @ w) + 1.0))

    assert peak_bytes(trace(merged, square, square)[0]) == size

    # Nor beside a value that lives as long.
    def beside(x, w):
        product = x @ w
        return jnp.sum(jnp.tanh(jnp.exp(product)) * product)

    assert peak_bytes(trace(beside, square, square)[0]) == size

    # Both the product and what is made of it are operands of products.
    def stored(x, w):
        return jnp.exp(x @ w) @ w

    assert peak_bytes(trace(stored, square, square)[0]) == size

    def both(x, w):
        product = x @ w
        return jnp.exp(product) @ product

    assert peak_bytes(trace(both, square, square)[0]) == 2 * size


def test_rematerialization_lowers_what_is_kept_and_raises_the_operations():
    def block(x, w):
        for _ in range(4):
            x = jnp.tanh(x @ w)
        return x

    def gradient(of, count):
        def forward(x, w):
            return jax.vjp(lambda w: _times(of, x, w, count), w)

        def both(x, w):
            result, backward = forward(x, w)
            return backward(result)

        shapes = shape(64, 8), shape(8, 8)
        kept, whole = trace(forward, *shapes)[0], trace(both, *shapes)[0]
        return output_bytes(kept), flops(whole), peak_bytes(whole)

    saved, operations, peak = gradient(block, 6)
    remat_saved, remat_operations, remat_peak = gradient(jax.checkpoint(block), 6)
    # Only the inputs of the blocks behind the first one, and the result.
    assert remat_saved == 6 * 64 * 8 * 4
    assert saved > 3 * remat_saved
    assert remat_peak < peak / 1.5
    product = 2 * 64 * 8 * 8
    assert operations == 3 * 24 * product - product
    assert operations < remat_operations <= operations + 24 * product


def _times(function, x, w, count):
    for _ in range(count):
        x = function(x, w)
    return x


def test_the_shapes_of_the_result_are_returned():
    _, shapes = trace(lambda x: {"a": x[0], "b": np.float32(1)}, shape(2, 3))
    assert shapes["a"].shape == (3,)

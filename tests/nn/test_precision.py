"""What is computed in which type and precision, read from the programs that JAX has traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export, lax
from thin import FRAMES, SIDE, WAY, arrays, gradient, operations

from molo_jax.engine import step as steps
from molo_jax.engine.mesh import make_mesh
from molo_jax.methods.settings import METHODS
from molo_jax.nn import attention, matching, normalization, ops
from molo_jax.nn.precision import FLOAT32, PRECISIONS, Precision, current, using

BF16 = PRECISIONS["bf16"]
# No setting of the package: convolutions and products are told apart by it.
TOLD_APART = Precision("test", "high", "highest", "float32")
HIGH, HIGHEST = (lax.Precision.HIGH,) * 2, (lax.Precision.HIGHEST,) * 2
DEFAULT = (lax.Precision.DEFAULT,) * 2
# What must never have operands in bfloat16: sums, and functions that lift its rounding.
WIDE = ("reduce_sum", "cumsum", "exp", "log", "log1p", "sqrt", "rsqrt", "div", "erf", "erfc")


def trained(network, method, precision):
    """The operations of a training step's gradient."""
    graphdef, *states = network(method)
    return operations(jax.make_jaxpr(gradient(graphdef, precision))(*states, arrays()).jaxpr)


def evaluated(network, method, precision):
    """The operations of embedding clips and matching an episode."""
    graphdef, *states = network(method)
    embed = steps.make_embed(
        graphdef,
        preprocess=lambda x: x,
        mesh=make_mesh(jax.devices()[:1]),
        precision=precision,
    )
    match = steps.make_match(graphdef, n_way=WAY, precision=precision)
    clips = jax.ShapeDtypeStruct((2 * WAY, FRAMES, SIDE, SIDE, 3), np.float32)
    features = jax.eval_shape(embed, *states, clips)
    assert {leaf.dtype for leaf in jax.tree.leaves(features)} == {np.dtype(np.float32)}
    some = jax.ShapeDtypeStruct((1, WAY), np.int32)
    return [
        *operations(jax.make_jaxpr(embed)(*states, clips).jaxpr),
        *operations(jax.make_jaxpr(match)(*states, features, some, some, some).jaxpr),
    ]


def named(found, *names):
    return [each for each in found if each.primitive.name in names]


def operand_types(equation):
    return {str(v.aval.dtype) for v in equation.invars if hasattr(v.aval, "dtype")}


def in_bf16(found):
    """The operations that lift rounding, or sum, and have an operand in bfloat16."""
    return {
        each.primitive.name for each in named(found, *WIDE) if "bfloat16" in operand_types(each)
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("traced", [trained, evaluated])
def test_every_convolution_and_every_product_states_the_precision_of_its_kind(
    network, method, traced
):
    found = traced(network, method, TOLD_APART)
    convolutions = named(found, "conv_general_dilated")
    assert len(convolutions) >= 12
    assert {each.params["precision"] for each in convolutions} == {HIGH}
    assert {each.params["precision"] for each in named(found, "dot_general")} <= {HIGH, HIGHEST}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("traced", [trained, evaluated])
@pytest.mark.parametrize(
    ("name", "allowed"), [("float32", {HIGHEST}), ("tf32", {HIGHEST, DEFAULT})]
)
def test_without_bf16_all_is_float32_in_the_precision_of_the_setting(
    network, method, traced, name, allowed
):
    found = traced(network, method, PRECISIONS[name])
    assert not any("bfloat16" in operand_types(each) for each in found)
    for each in named(found, "conv_general_dilated"):
        assert each.params["precision"] == (HIGHEST if name == "float32" else DEFAULT)
    assert {each.params["precision"] for each in named(found, "dot_general")} == allowed


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("traced", [trained, evaluated])
def test_in_bf16_networks_multiply_bfloat16_and_sum_and_normalize_float32(network, method, traced):
    found = traced(network, method, BF16)
    for each in named(found, "conv_general_dilated"):
        assert operand_types(each) == {"bfloat16"}
    for each in named(found, "dot_general"):
        if "bfloat16" not in operand_types(each):
            assert each.params["precision"] == HIGHEST
    assert in_bf16(found) == set()


def test_in_bf16_the_transformer_of_molo_multiplies_bfloat16(network):
    graphdef, *states = network("molo")
    tokens = jax.ShapeDtypeStruct((2, FRAMES + 1, 64), np.float32)

    def encode(params, stats, tokens):
        with using(BF16):
            model = nnx.merge(graphdef, params, stats)
            return model.frame_encoder(tokens, train=False, rngs=None)

    found = operations(jax.make_jaxpr(encode)(*states, tokens).jaxpr)
    products = named(found, "dot_general")
    # Queries, keys and values; weights; weighted values; output; two of the feed-forward layer.
    assert len(products) == 6
    assert all(operand_types(each) == {"bfloat16"} for each in products)
    wide = [each for each in products if str(each.outvars[0].aval.dtype) == "float32"]
    assert len(wide) == 1
    shapes = jax.eval_shape(encode, *states, tokens)
    assert {str(each.dtype) for each in shapes.values()} == {"float32"}


def to_bf16(function):
    return lambda *arguments, **options: function(
        *(each.astype(jnp.bfloat16) for each in arguments), **options
    )


FAULTS = {
    "softmax": (attention.jax.nn, "softmax", to_bf16(jax.nn.softmax), "exp", "cpu"),
    "statistics": (normalization, "to_float32", lambda x: x, "rsqrt", "cuda"),
    "distances": (matching, "safe_norm", to_bf16(ops.safe_norm), "sqrt", "cuda"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_reduced_computation_of_what_must_be_float32_would_be_found(network, monkeypatch, fault):
    module, name, faulty, operation, platform = FAULTS[fault]
    with ops.traced_for(platform):
        assert in_bf16(trained(network, "molo", BF16)) == set()
        monkeypatch.setattr(module, name, faulty)
        assert operation in in_bf16(trained(network, "molo", BF16))


def described(tree):
    return [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", PRECISIONS)
def test_parameters_statistics_and_gradients_stay_float32(network, name):
    graphdef, *states = network("molo")

    def compute(*arguments):
        grads, metrics, updates = gradient(graphdef, PRECISIONS[name])(*arguments)
        # Those of the one episode.
        return (grads, jax.tree.map(lambda x: x[0], updates)), metrics

    after, metrics = jax.eval_shape(compute, *states, arrays())
    assert described(after) == described(tuple(states))
    assert {kind for _, kind in described(metrics)} == {"float32"}


def test_in_float64_no_setting_changes_anything():
    with jax.enable_x64(True):
        x, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 2))
        for name in PRECISIONS:
            with using(PRECISIONS[name]):
                program = jax.make_jaxpr(lambda x, k: ops.conv2d(x, k))(x, kernel)
                assert all(
                    operand_types(each) == {"float64"}
                    for each in named(operations(program.jaxpr), "conv_general_dilated")
                )
                assert ops.upsample_conv3x3(x, kernel, 2).dtype == jnp.float64


def test_the_setting_holds_inside_its_block_and_float32_outside():
    assert current() is FLOAT32
    with using(BF16):
        assert current() is BF16
        with using(PRECISIONS["tf32"]):
            assert current().name == "tf32"
        assert current() is BF16
    assert current() is FLOAT32
    with pytest.raises(ValueError, match="x"), using(BF16):
        raise ValueError("x")
    assert current() is FLOAT32


def test_a_program_keeps_the_precision_that_it_was_made_for(network):
    graphdef, *states = network("bi_mhm")
    mesh = make_mesh(jax.devices()[:1])
    clips = jax.ShapeDtypeStruct((1, FRAMES, SIDE, SIDE, 3), np.float32)
    texts = []
    for name in ("float32", "bf16", "float32"):
        embed = steps.make_embed(
            graphdef, preprocess=lambda x: x, mesh=mesh, precision=PRECISIONS[name]
        )
        with using(BF16):
            texts.append(str(jax.make_jaxpr(embed)(*states, clips)))
    assert texts[0] == texts[2]
    assert ("bf16" in texts[1], "bf16" in texts[0]) == (True, False)


def test_a_program_for_cuda_convolves_bfloat16_in_bf16_and_float32_in_tf32(network):
    graphdef, *states = network("molo")
    text = {}
    for name in PRECISIONS:
        run = jax.jit(gradient(graphdef, PRECISIONS[name]))
        with ops.traced_for("cuda"):
            program = export.export(run, platforms=["cuda"])(*states, arrays())
        lines = program.mlir_module().splitlines()
        text[name] = [line for line in lines if "stablehlo.convolution" in line]
        assert len(text[name]) >= 36
    assert all(line.count("xbf16>") == 3 for line in text["bf16"])
    # The default precision is the one that is not written.
    for name, written in (("float32", 2), ("tf32", 0)):
        assert all("bf16" not in line for line in text[name])
        assert all(line.count("precision HIGHEST") == written for line in text[name])
        assert all(line.count("#stablehlo<precision ") == written for line in text[name])

"""Dropout in molo_jax and in PyTorch: the same sites, rates, scale, and independent masks.

The comparisons are statistical tests with fixed seeds, so they give the same result every time. One
test raises a false alarm with probability ALARM, so for the few hundred of this module a new choice
of seeds does so with probability below 1e-3.
"""

import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import molo_torch_ref
from molo_jax.methods.episode import Episode
from molo_jax.methods.settings import MoLoSettings
from molo_jax.weights import torch_map
from parity_tests import tolerances

ALARM = tolerances.DROPOUT_ALARM.bound
# From the specification, where each mask acts.
RATES = {"position": 0.1, "attention": 0.2, "hidden": 0.05, "feedforward": 0.05}
# The module that ends in each site; "feedforward" holds the site "hidden" too.
MODULES = ("position", "attention", "feedforward")
SITES_OF = {
    "position": ("position",),
    "attention": ("attention",),
    "feedforward": ("hidden", "feedforward"),
}
SCALE, OUTPUTS = tolerances.DROPOUT_SCALE.bound, tolerances.DROPOUT_OUTPUTS.bound
AXES = ("videos", "tokens", "channels")
VIDEOS, TOKENS, WIDTH = 400, 3, 512
# Tokens that are scaled by 1 are small enough that no value becomes 0 without dropout.
CONFIG = MoLoSettings(num_classes=3, backbone="resnet18", positional_a=float(WIDTH))


def bound(tests=1):
    """How far a standard normal value may be from 0, for so many tests at the rate ALARM."""
    return statistics.NormalDist().inv_cdf(1 - ALARM / (2 * tests))


# What is tested of a site: its input and output, (v, l, d).


def check_scale(inputs, outputs, rate):
    """Every value is 0 or its input divided by the share that is kept."""
    assert (inputs != 0).all()
    kept = outputs != 0
    np.testing.assert_allclose(
        outputs[kept], inputs[kept] / (1 - rate), rtol=SCALE, err_msg="scale of kept values"
    )


def check_rate(inputs, outputs, rate):
    """The share of zeros is the rate; binomial test."""
    zeros = outputs == 0
    z = (zeros.mean() - rate) / math.sqrt(rate * (1 - rate) / zeros.size)
    assert abs(z) < bound(), f"share of zeros {zeros.mean():.5f}, expected {rate}, z = {z:.1f}"


def check_independence(inputs, outputs, rate):
    """Counts of zeros along each axis vary as binomial ones.

    Masks that are shared along an axis, in part too, make the counts along it vary more.
    """
    zeros, spread, found = outputs == 0, rate * (1 - rate), {}
    for axis, name in enumerate(AXES):
        length = zeros.shape[axis]
        counts = zeros.sum(axis)
        dispersion = np.mean((counts - length * rate) ** 2) / (length * spread)
        variance = 2 + (1 - 6 * spread) / (length * spread)
        found[name] = (dispersion - 1) / math.sqrt(variance / counts.size)
    name, z = max(found.items(), key=lambda item: abs(item[1]))
    assert abs(z) < bound(), f"masks of {name} are not independent: z = {z:.1f}"


def check_moments(first, second):
    """Two samples (v, l, d) of a module's output: mean and variance of every element agree.

    Videos are independent draws; the elements of one video need not be.
    """
    first, second = np.float64(first), np.float64(second)
    means, variances = zip(*[(x.mean(0), x.var(0)) for x in (first, second)], strict=True)
    squares = [(x - mean) ** 2 for x, mean in zip((first, second), means, strict=True)]
    _check_equal_means("mean", first, second)
    _check_equal_means("variance", *squares)
    pooled = (variances[0] + variances[1]) / 2
    overall = [(square / pooled).mean((1, 2))[:, None] for square in squares]
    _check_equal_means("overall variance", *overall)


def _check_equal_means(what, first, second):
    """Welch's test of each element, with normal quantiles."""
    difference = first.mean(0) - second.mean(0)
    error = np.sqrt(first.var(0) / len(first) + second.var(0) / len(second))
    worst = np.abs(difference / error).max()
    assert worst < bound(difference.size), f"{what} of the outputs differs: z = {worst:.1f}"


CHECKS = {"scale": check_scale, "rate": check_rate, "independence": check_independence}


# Drawing from both implementations.


class Recorded:
    """A dropout that keeps what goes in and comes out; in place of that of a JAX module."""

    def __init__(self, dropout):
        self.dropout = dropout
        self.calls = []

    def __call__(self, x, **settings):
        y = self.dropout(x, **settings)
        self.calls.append((x, y))
        return y


def torch_network():
    return molo_torch_ref.MoLo(
        CONFIG.num_classes, CONFIG.backbone, positional_a=CONFIG.positional_a
    )


@pytest.fixture(scope="module")
def tensors():
    """The weights of the appearance encoder, with official names."""
    rng = np.random.default_rng(0)
    encoder = torch_network().temporal_atte_before
    return {
        name: np.float32(rng.standard_normal(value.shape) / math.sqrt(value.shape[-1]))
        for name, value in encoder.state_dict().items()
    }


@pytest.fixture(scope="module")
def tokens():
    """Many copies of the tokens of one video."""
    one = np.random.default_rng(1).standard_normal((1, TOKENS, WIDTH), np.float32)
    return np.broadcast_to(one, (VIDEOS, TOKENS, WIDTH)).copy()


def jax_parts(tensors):
    """The modules with dropout of the default network."""
    model = nnx.eval_shape(lambda: CONFIG.build(nnx.Rngs(0)))
    graphdef, state = nnx.split(model.frame_encoder)
    named = {}
    for path, value in nnx.to_flat_state(state):
        name = torch_map.official_name(("frame_encoder", *path))
        array = tensors[name.removeprefix("temporal_atte_before.")]
        named[path] = value.replace(jnp.asarray(torch_map.from_official(path, array)))
    encoder = nnx.merge(graphdef, nnx.from_flat_state(named))
    parts = {
        "position": model.positional_encoder,
        "attention": encoder.attention,
        "feedforward": encoder.feedforward,
    }
    return parts


def draw_jax(tensors, tokens, *, seed=0, train=True, fault=None):
    """Returns each module's output, and each site's input and output."""
    outputs, sites = {}, {}
    for name, part in jax_parts(tensors).items():
        part.dropout = Recorded(part.dropout if fault is None else fault(part.dropout))
        rngs = nnx.Rngs(dropout=seed)
        outputs[name] = np.asarray(part(jnp.asarray(tokens), train=train, rngs=rngs))
        calls = [tuple(map(np.asarray, call)) for call in part.dropout.calls]
        sites |= dict(zip(SITES_OF[name], calls, strict=True))
    return outputs, sites


def draw_torch(tensors, tokens, *, seed=0, train=True):
    """Returns each module's output, and each site's input and output."""
    model = torch_network().train(train)
    model.temporal_atte_before.load_state_dict({k: torch.tensor(v) for k, v in tensors.items()})
    attention, feedforward = model.temporal_atte_before.layers[0]
    parts = {"position": model.pe, "attention": attention, "feedforward": feedforward}
    outputs, sites = {}, {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, part in parts.items():
            calls, hooks = record_torch(part)
            outputs[name] = part(torch.tensor(tokens)).numpy()
            for hook in hooks:
                hook.remove()
            sites |= dict(zip(SITES_OF[name], calls, strict=True))
    return outputs, sites


def record_torch(module):
    """Collects inputs and outputs of all dropouts in a module, in the order of their calls."""
    calls = []

    def hook(module, inputs, output):
        del module
        calls.append((inputs[0].detach().numpy().copy(), output.detach().numpy()))

    dropouts = [m for m in module.modules() if isinstance(m, torch.nn.Dropout)]
    return calls, [dropout.register_forward_hook(hook) for dropout in dropouts]


@pytest.fixture(scope="module")
def drawn(tensors, tokens):
    """What both implementations draw in training."""
    return {"jax": draw_jax(tensors, tokens), "torch": draw_torch(tensors, tokens)}


# Sound dropout.


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("site", RATES)
@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_every_site_drops_its_share_scales_the_rest_and_draws_independently(
    drawn, framework, site, check
):
    _, sites = drawn[framework]
    CHECKS[check](*sites[site], RATES[site])


@pytest.mark.parametrize("module", MODULES)
def test_mean_and_variance_of_every_output_agree(drawn, module):
    check_moments(drawn["jax"][0][module], drawn["torch"][0][module])


@pytest.mark.parametrize("site", RATES)
def test_the_sites_see_the_same_values_in_both(drawn, site):
    ours, theirs = (drawn[framework][1][site][0] for framework in ("jax", "torch"))
    if site == "feedforward":  # behind another dropout
        check_moments(ours, theirs)
    else:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=OUTPUTS)


def test_evaluation_has_no_dropout(tensors, tokens):
    ours, theirs = draw_jax(tensors, tokens, train=False), draw_torch(tensors, tokens, train=False)
    for _, sites in (ours, theirs):
        for site in RATES:
            np.testing.assert_array_equal(*sites[site])
    for name in MODULES:
        np.testing.assert_allclose(ours[0][name], theirs[0][name], rtol=0, atol=OUTPUTS)


@pytest.mark.parametrize(("framework", "draw"), [("jax", draw_jax), ("torch", draw_torch)])
def test_a_seed_fixes_the_masks_and_another_gives_unrelated_ones(
    drawn, tensors, tokens, framework, draw
):
    first, again, other = drawn[framework][1], *(draw(tensors, tokens, seed=s)[1] for s in (0, 1))
    for site, rate in RATES.items():
        masks = [sites[site][1] == 0 for sites in (first, again, other)]
        np.testing.assert_array_equal(masks[0], masks[1])
        check_unrelated(masks[0], masks[2], (rate, rate))


# Planted faults, each of which the checks must find.


def _unscaled(dropout):
    return lambda x, **settings: dropout(x, **settings) * (1 - dropout.rate)


def _shared(axis):
    return lambda dropout: nnx.Dropout(dropout.rate, broadcast_dims=(axis,))


def _shared_by_pairs(dropout):
    """Videos 2 i and 2 i + 1 get one mask."""

    def call(x, **settings):
        mask = dropout(jnp.ones_like(x[::2]), **settings)
        return x * jnp.repeat(mask, 2, axis=0)

    return call


FAULTS = {
    "rate": lambda dropout: nnx.Dropout(1.1 * dropout.rate),
    "scale": _unscaled,
    "videos": _shared(0),
    "tokens": _shared(1),
    "channels": _shared(2),
    "pairs": _shared_by_pairs,
}
# Fault -> the checks that find it at every site, with what they say.
FOUND_BY = [
    ("rate", "rate", "share of zeros"),
    ("rate", "scale", "scale of kept values"),
    ("scale", "scale", "scale of kept values"),
    ("videos", "independence", "masks of videos"),
    ("tokens", "independence", "masks of tokens"),
    ("channels", "independence", "masks of channels"),
    ("pairs", "independence", "masks of videos"),
]


@pytest.fixture(scope="module")
def faulty(tensors, tokens):
    return {name: draw_jax(tensors, tokens, fault=fault) for name, fault in FAULTS.items()}


@pytest.mark.parametrize(("fault", "check", "message"), FOUND_BY)
@pytest.mark.parametrize("site", RATES)
def test_a_planted_fault_is_found_at_every_site(faulty, fault, check, message, site):
    _, sites = faulty[fault]
    with pytest.raises(AssertionError, match=message):
        CHECKS[check](*sites[site], RATES[site])


@pytest.mark.parametrize(
    ("fault", "message"),
    [("rate", "variance"), ("scale", "mean"), ("videos", "mean")],
)
@pytest.mark.parametrize("module", MODULES)
def test_a_planted_fault_changes_mean_or_variance(drawn, faulty, fault, message, module):
    with pytest.raises(AssertionError, match=f"{message} of the outputs differs"):
        check_moments(faulty[fault][0][module], drawn["torch"][0][module])


# A whole forward pass: support and query, both streams, all sites.


def check_unrelated(first, second, rates):
    """Zeros of two masks coincide as often as independent ones.

    Compared are the elements of the same video, token and channel, and those that come at the same
    place in memory: one random key gives equal numbers to these where the shapes differ.
    """
    block = tuple(map(slice, np.minimum(first.shape, second.shape)))
    count = min(first.size, second.size)
    for a, b in ((first[block], second[block]), (first.ravel()[:count], second.ravel()[:count])):
        together = np.mean((a - rates[0]) * (b - rates[1]))
        z = together * math.sqrt(a.size / math.prod(p * (1 - p) for p in rates))
        assert abs(z) < bound(), f"two masks are related: z = {z:.1f}"


def check_all_unrelated(masks):
    """Compares every pair of masks, given as (site, zeros)."""
    for i, (site, first) in enumerate(masks):
        for other, second in masks[:i]:
            check_unrelated(first, second, (RATES[site], RATES[other]))


def clips(videos, seed):
    return np.random.default_rng(seed).standard_normal((videos, 4, 32, 32, 3), np.float32)


SUPPORT, QUERY, LABELS = clips(4, 0), clips(4, 1), np.array([0, 1, 1, 0], np.int32)


def pooled_maps(frames, **_):
    """Stands in for the backbone: maps of one pixel."""
    maps = frames.reshape(len(frames), 1, 1, -1)[..., :WIDTH]
    return dict.fromkeys(("pool", "layer1", "layer2", "layer3", "layer4"), maps)


def record_forward(model, key, *, train):
    """Replaces the dropouts of a JAX network; returns the recorders, in the order of the calls."""
    # Without dropout, and slow to compile.
    model.backbone = pooled_maps
    recorders = []
    for stream in (model.frame_encoder, model.motion_encoder):
        for part in (stream.attention, stream.feedforward):
            part.dropout = Recorded(part.dropout)
            recorders.append(part.dropout)
    position = model.positional_encoder
    position.dropout = Recorded(position.dropout)
    recorders.append(position.dropout)
    rngs = nnx.Rngs(dropout=key) if train else None
    support, query, labels = map(jnp.asarray, (SUPPORT, QUERY, LABELS))
    # Neither the queries' labels nor the training classes are read.
    episode = Episode(support, query, labels, labels, labels, labels)
    model.forward(episode, n_way=2, train=train, reconstruct=False, rngs=rngs)
    return recorders


def test_a_forward_pass_of_jax_draws_a_mask_of_its_own_everywhere():
    graphdef, state = nnx.split(nnx.eval_shape(lambda: CONFIG.build(nnx.Rngs(0))))
    rng = np.random.default_rng(4)
    state = jax.tree.map(lambda x: 0.05 * rng.standard_normal(x.shape, np.float32), state)

    @jax.jit
    def forward(state, key):
        recorders = record_forward(nnx.merge(graphdef, state), key, train=True)
        return [[y == 0 for _, y in recorder.calls] for recorder in recorders]

    *encoders, position = jax.device_get(forward(state, jax.random.key(9)))
    drawn = [("position", mask) for mask in position]
    for attention, feedforward in (encoders[:2], encoders[2:]):
        drawn += zip(("attention", "hidden", "feedforward"), attention + feedforward, strict=True)
    assert len(drawn) == 8
    for site, zeros in drawn:
        check_rate(None, np.where(zeros, 0, 1), RATES[site])
    # Support and query are halves of one call.
    halves = [(site, half) for site, zeros in drawn for half in np.split(zeros, 2)]
    check_all_unrelated(halves)
    for site, mask in halves[:3]:
        with pytest.raises(AssertionError, match="two masks are related"):
            check_all_unrelated([*halves, (site, mask)])


def test_a_forward_pass_of_torch_draws_a_mask_of_its_own_everywhere():
    model = torch_network().train()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(2)
        masks = torch_masks(model)
    assert sorted(site for site, _ in masks) == sorted(4 * list(RATES))
    for site, zeros in masks:
        check_rate(None, np.where(zeros, 0, 1), RATES[site])
    check_all_unrelated(masks)


def torch_masks(model):
    """Runs an episode; returns (site, zeros) of every call of a dropout."""
    places = {
        "position": [model.pe.dropout],
        "attention": [],
        "hidden": [],
        "feedforward": [],
    }
    for stream in (model.temporal_atte_before, model.temporal_atte_before_motion):
        attention, feedforward = stream.layers[0]
        places["attention"].append(attention.fn.to_out[1])
        places["hidden"].append(feedforward.net[2])
        places["feedforward"].append(feedforward.net[4])
    masks = []
    for site, dropouts in places.items():
        for dropout in dropouts:
            dropout.register_forward_hook(
                lambda module, inputs, output, site=site: masks.append(
                    (site, (output == 0).numpy())
                )
            )
    support, query = (torch.tensor(x).movedim(-1, 2) for x in (SUPPORT, QUERY))
    model(support, query, torch.tensor(LABELS), 2, reconstruct=False)
    return masks


def test_a_forward_pass_in_evaluation_draws_nothing():
    def unchanged(train):
        seen = []

        def forward(key):
            recorders = record_forward(CONFIG.build(nnx.Rngs(key)), key, train=train)
            seen.extend(y is x for recorder in recorders for x, y in recorder.calls)

        jax.eval_shape(forward, jax.random.key(0))
        return seen

    assert unchanged(train=False) == [True] * 8
    assert unchanged(train=True) == [False] * 8
    model = torch_network().eval()
    with torch.no_grad():
        assert not any(zeros.any() for _, zeros in torch_masks(model))

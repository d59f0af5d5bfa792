"""The network's forward pass: composition of its stages, sets, sizes and errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import thin_backbone
from flax import nnx
from thin_backbone import THIN

from molo_jax.engine.state import create_model
from molo_jax.methods.episode import Episode
from molo_jax.methods.molo import MoLo
from molo_jax.methods.molo_outputs import Tokens
from molo_jax.methods.settings import MoLoSettings
from molo_jax.nn import matching
from molo_jax.nn.positions import sinusoids

CONFIG = MoLoSettings(
    num_classes=7,
    backbone=THIN.name,
    dropout_position=0.0,
    dropout_attention=0.0,
    dropout_feedforward=0.0,
)
FRAMES = 3
# Two classes with two and one shots, three queries.
LABELS = np.array([1, 0, 1])


@pytest.fixture(scope="module", autouse=True)
def _thin_backbone():
    with thin_backbone.registered():
        yield


@functools.cache
def _network():
    return create_model(CONFIG, seed=0)


def _clips(seed, count, frames=FRAMES, height=64, width=32):
    shape = (count, frames, height, width, 3)
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def _episode(support, query, labels=LABELS):
    zeros = jnp.zeros(len(query), jnp.int32)
    classes = jnp.zeros(len(support), jnp.int32)
    return Episode(support, query, jnp.asarray(labels), zeros, classes, zeros)


@functools.partial(jax.jit, static_argnames="train")
def _forward(params, stats, support, query, train):
    model = nnx.merge(_network()[0], params, stats, copy=True)
    output = model.forward(_episode(support, query), n_way=2, train=train)
    return output, nnx.state(model, nnx.BatchStat)


@functools.cache
def _output(train):
    _, params, stats = _network()
    return _forward(params, stats, _clips(1, 3), _clips(2, 4), train)


def test_positions_are_added_to_pooled_maps_behind_the_class_token():
    output, _ = _output(train=False)
    stages, model = output.stages, nnx.merge(*_network())
    pooled = jnp.mean(stages["layer4"].query, axis=(2, 3))
    token = jnp.broadcast_to(model.class_token[...], (4, 1, THIN.width))
    tokens = jnp.concatenate([token, pooled], axis=1)
    expected = tokens * np.sqrt(THIN.width / 10) + sinusoids(FRAMES + 1, THIN.width)
    np.testing.assert_allclose(stages["positioned"].query, expected, rtol=1e-5, atol=1e-5)


def test_motion_tokens_pool_the_rectified_expanded_differences():
    output, _ = _output(train=False)
    stages, model = output.stages, nnx.merge(*_network())
    differences = (
        stages["motion_convolution"].support[:, 1:] - stages["motion_reduction"].support[:, :-1]
    )
    kernel, bias = model.motion_expansion.kernel[...][0, 0], model.motion_expansion.bias[...]
    expanded = differences @ kernel + bias
    np.testing.assert_allclose(stages["motion_expansion"].support, expanded, atol=1e-5)
    pooled = jnp.mean(jax.nn.relu(expanded), axis=(2, 3))
    expected = pooled * np.sqrt(THIN.width / 10) + sinusoids(FRAMES, THIN.width)[1:]
    np.testing.assert_allclose(
        stages["motion_positioned"].support[:, 1:], expected, rtol=1e-5, atol=1e-5
    )


def test_encoded_tokens_are_attention_plus_feedforward_and_tokens_their_relu():
    output, _ = _output(train=True)
    for prefix, stream in (("", "appearance"), ("motion_", "motion")):
        attention = output.stages[f"{prefix}attention"].query
        forwarded = output.stages[f"{prefix}feedforward"].query
        encoded = output.stages[f"{prefix}encoded"].query
        np.testing.assert_allclose(encoded, attention + forwarded, atol=1e-5)
        tokens = getattr(output.tokens.query, stream)
        np.testing.assert_array_equal(tokens, np.maximum(encoded, 0))


def test_class_logits_come_from_the_sum_of_both_mean_tokens_support_first():
    output, _ = _output(train=False)
    layer = nnx.merge(*_network()).classifier
    both = jnp.concatenate(
        [
            jnp.mean(tokens.appearance, axis=1) + jnp.mean(tokens.motion, axis=1)
            for tokens in (output.tokens.support, output.tokens.query)
        ]
    )
    expected = both @ layer.kernel[...] + layer.bias[...]
    np.testing.assert_allclose(output.class_logits, expected, rtol=1e-5, atol=1e-5)


def _distance(a, b):
    return 1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 0.01)


def test_logits_follow_the_definition_with_unequal_shots_per_class():
    output, _ = _output(train=False)
    tokens = jax.tree.map(np.asarray, output.tokens)
    expected = np.zeros((4, 2))
    long_short = np.zeros((4, 2))
    for stream, weight in (("appearance", 1.0), ("motion", 0.3)):
        support, query = getattr(tokens.support, stream), getattr(tokens.query, stream)
        classes = [support[1], (support[0] + support[2]) / 2]
        for q in range(4):
            for n in range(2):
                grid = [[_distance(a, b) for b in classes[n][1:]] for a in query[q][1:]]
                distance = np.min(grid, axis=1).sum() + np.min(grid, axis=0).sum()
                expected[q, n] -= weight * distance
                if stream == "appearance":
                    long_short[q, n] = -sum(_distance(f, query[q][0]) for f in classes[n][1:])
    np.testing.assert_allclose(output.scores.match, expected, rtol=1e-4)
    np.testing.assert_allclose(output.scores.support_to_query, long_short, rtol=1e-4)


def test_long_short_logits_are_scaled_by_the_learnt_scalars():
    model = nnx.merge(*_network())
    tokens = _output(train=False)[0].tokens
    before = model.scores(tokens.support, tokens.query, jnp.asarray(LABELS), n_way=2)
    model.contrast_scale[...] = jnp.asarray([2.0])
    model.motion_contrast_scale[...] = jnp.asarray([5.0])
    after = model.scores(tokens.support, tokens.query, jnp.asarray(LABELS), n_way=2)
    for name, factor in (("", 2), ("_motion", 5)):
        for direction in ("support_to_query", "query_to_support"):
            old, new = (getattr(m, direction + name) for m in (before, after))
            np.testing.assert_allclose(new, factor * old, rtol=1e-6)
    np.testing.assert_array_equal(before.match, after.match)


def test_single_direction_and_motion_weight_change_the_match_only_as_defined():
    tokens = _output(train=False)[0].tokens
    labels = jnp.asarray(LABELS)

    def match(**changes):
        model = nnx.merge(*_network())
        model.settings = MoLoSettings(num_classes=7, backbone=THIN.name, **changes)
        return model.scores(tokens.support, tokens.query, labels, n_way=2).match

    appearance, half, whole = (match(motion_weight=w) for w in (0.0, 0.5, 1.0))
    np.testing.assert_allclose(half, (appearance + whole) / 2, rtol=1e-5)
    one_way = match(single_direction=True, motion_weight=0.0)
    assert np.all(np.asarray(one_way) > np.asarray(appearance))


def test_embedding_clips_alone_gives_the_tokens_of_the_episode():
    output, _ = _output(train=False)
    graphdef, params, stats = _network()
    embed = jax.jit(lambda clips: nnx.merge(graphdef, params, stats).embed(clips))
    alone = [embed(_clips(2, 4)[i : i + 1]) for i in range(4)]
    together = Tokens(
        *(jnp.concatenate(x) for x in zip(*((a.appearance, a.motion) for a in alone), strict=True))
    )
    for stream in ("appearance", "motion"):
        expected = getattr(output.tokens.query, stream)
        np.testing.assert_allclose(getattr(together, stream), expected, rtol=1e-4, atol=1e-4)


def test_training_statistics_of_a_set_do_not_depend_on_the_other_set():
    _, params, stats = _network()
    output, _ = _output(train=True)
    other, _ = _forward(params, stats, _clips(1, 3), 5 * _clips(9, 4), train=True)
    np.testing.assert_allclose(
        output.stages["layer4"].support, other.stages["layer4"].support, atol=1e-5
    )
    assert np.abs(output.stages["layer4"].query - other.stages["layer4"].query).max() > 0.1


def test_backbone_statistics_are_updated_twice_and_decoder_statistics_once():
    _, stats = _output(train=True)
    assert int(stats["backbone"]["bn1"]["num_batches_tracked"][...]) == 2
    assert int(stats["motion_decoder"]["blocks"][0]["bn"]["num_batches_tracked"][...]) == 1


def test_reconstruction_target_is_the_difference_of_consecutive_frames_support_first():
    output, _ = _output(train=False)
    clips = np.concatenate([_clips(1, 3), _clips(2, 4)])
    expected = clips[:, 1:] - clips[:, :-1]
    np.testing.assert_array_equal(output.reconstruction_target, expected)
    assert output.reconstruction.shape == expected.shape


def test_dropout_changes_training_outputs_and_only_with_the_key():
    config = MoLoSettings(num_classes=7, backbone=THIN.name)
    graphdef, params, stats = create_model(config, seed=0)

    @jax.jit
    def logits(key):
        model = nnx.merge(graphdef, params, stats, copy=True)
        episode, rngs = _episode(_clips(1, 3), _clips(2, 4)), nnx.Rngs(dropout=key)
        return model(episode, n_way=2, train=True, rngs=rngs).logits

    first, again, other = (np.asarray(logits(jax.random.key(i))) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize(
    ("support", "query", "message"),
    [
        (
            (2, 3, 48, 32, 3),
            (2, 3, 48, 32, 3),
            "48x32 pixels; both sides must be positive multiples of 32",
        ),
        ((2, 1, 32, 32, 3), (2, 1, 32, 32, 3), "have 1 frames; MoLo needs at least 2"),
        ((2, 20, 32, 32, 3), (2, 20, 32, 32, 3), "have 20 frames; .* at most 19"),
        (
            (2, 3, 32, 32, 3),
            (2, 3, 64, 32, 3),
            r"support clips are \(3, 32, 32, 3\), query clips \(3, 64",
        ),
    ],
)
def test_wrong_clips_are_refused_with_their_shape(support, query, message):
    model = nnx.merge(*_network())
    with pytest.raises(ValueError, match=message):
        model(_episode(jnp.zeros(support), jnp.zeros(query), [0, 1]), n_way=2, train=False)


def test_an_unknown_backbone_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="resnet19") as error:
        MoLo(MoLoSettings(num_classes=3, backbone="resnet19"), rngs=nnx.Rngs(0))
    assert "resnet18, resnet34, resnet50" in str(error.value)


LOSSES = dict(
    zip(MoLoSettings.losses, (1.0, 10.0, 100.0, 200.0, 300.0, 400.0, 1000.0), strict=True)
)


def test_total_loss_weighs_every_term():
    model = nnx.merge(*_network())
    model.settings = MoLoSettings(7, classification=0.8, contrast=0.05, reconstruction=0.4)
    total = model.total_loss({name: jnp.asarray(value) for name, value in LOSSES.items()})
    np.testing.assert_allclose(total, 1 + 0.8 * 10 + 0.05 * 1000 + 0.4 * 1000, rtol=1e-6)


@pytest.mark.parametrize("term", MoLoSettings.losses)
def test_total_loss_depends_on_every_term(term):
    zero = {name: jnp.zeros(()) for name in MoLoSettings.losses}
    assert float(nnx.merge(*_network()).total_loss(zero | {term: jnp.ones(())})) > 0


@pytest.mark.parametrize("streams", ["appearance", "motion"])
def test_one_stream_alone_is_scored_contrasted_and_classified(streams):
    settings = MoLoSettings(7, backbone=THIN.name, streams=streams, dropout_attention=0.0)
    graphdef, params, stats = create_model(settings, seed=0)
    model = nnx.merge(graphdef, params, stats)
    tokens = jax.jit(lambda clips: nnx.merge(graphdef, params, stats).embed(clips))(_clips(1, 3))
    assert (tokens.appearance is None) == (streams == "motion")
    assert (tokens.motion is None) == (streams == "appearance")
    name, suffix = (streams, "") if streams == "appearance" else (streams, "_motion")
    scores = model.scores(tokens, tokens, jnp.asarray(LABELS), n_way=2)
    alone = getattr(tokens, name)
    classes = matching.prototypes(alone, jnp.asarray(LABELS), 2)
    frames = matching.cosine_distances(alone, classes)[:, :, 1:, 1:]
    expected = -matching.bi_mean_hausdorff(frames)
    np.testing.assert_allclose(scores.match, expected, rtol=1e-6)

    @jax.jit
    def trained(episode):
        model = nnx.merge(graphdef, params, stats, copy=True)
        return model(episode, n_way=2, train=True, rngs=nnx.Rngs(dropout=0)).losses

    losses = trained(_episode(_clips(1, 3), _clips(2, 4)))
    contrasts = {f"s2q{suffix}", f"q2s{suffix}"}
    assert losses.keys() == {"match", "classification", "reconstruction"} | contrasts


def test_otam_aligns_the_frames_of_both_streams():
    tokens, labels = _output(train=False)[0].tokens, jnp.asarray(LABELS)
    model = nnx.merge(*_network())
    model.settings = MoLoSettings(7, backbone=THIN.name, matching="otam", smoothing=0.2)
    found = model.match(tokens.support, tokens.query, labels, n_way=2)
    expected = 0
    for name, weight in (("appearance", 1.0), ("motion", 0.3)):
        classes = matching.prototypes(getattr(tokens.support, name), labels, 2)
        frames = matching.cosine_distances(getattr(tokens.query, name), classes)[:, :, 1:, 1:]
        expected -= weight * matching.otam(frames, smoothing=0.2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)

"""The methods of the reference by themselves: names of tensors, and values worked out naively."""

import itertools

import numpy as np
import pytest
import torch

from molo_torch_ref import METHODS, Coefficients, Episode, loss_terms, make_network, total_loss
from molo_torch_ref.matching import bi_mean_hausdorff, cosine_distances, otam
from molo_torch_ref.training import parameter_groups
from parity_tests import methods

LEARNT_CLASSES = ("molo", "hyrsm", "hyrsm_pp")
# Names and shapes behind the backbone in official checkpoints; d is the width of the backbone.
HYRSM = {
    "pe.pe": (1, 20, "d"),
    "temporal_atte_before.norm.weight": ("d",),
    "temporal_atte_before.norm.bias": ("d",),
    "temporal_atte_before.fn.to_qkv.weight": ("3d", "d"),
    "temporal_atte_before.fn.to_out.0.weight": ("d", "d"),
    "temporal_atte_before.fn.to_out.0.bias": ("d",),
    "temporal_atte.w_qs.weight": ("d", "d"),
    "temporal_atte.w_ks.weight": ("d", "d"),
    "temporal_atte.w_vs.weight": ("d", "d"),
    "temporal_atte.layer_norm.weight": ("d",),
    "temporal_atte.layer_norm.bias": ("d",),
    "temporal_atte.fc.weight": ("d", "d"),
    "temporal_atte.fc.bias": ("d",),
    "layer2.0.weight": ("d", "2d", 1),
    "layer2.0.bias": ("d",),
    "classification_layer.weight": (64, "d"),
    "classification_layer.bias": (64,),
}
TRX = {
    f"transformers.{i}.{name}": shape
    for i, (cardinality, count) in enumerate(((2, 28), (3, 56)))
    for name, shape in {
        "pe.pe": (1, 12, "d"),
        "k_linear.weight": (1152, f"{cardinality}d"),
        "k_linear.bias": (1152,),
        "v_linear.weight": (1152, f"{cardinality}d"),
        "v_linear.bias": (1152,),
        "norm_k.weight": (1152,),
        "norm_k.bias": (1152,),
        "norm_v.weight": (1152,),
        "norm_v.bias": (1152,),
        **{f"tuples.{j}": (cardinality,) for j in range(count)},
    }.items()
}
OFFICIAL = {"protonet": {}, "bi_mhm": {}, "otam": {}, "trx": TRX, "hyrsm": HYRSM, "hyrsm_pp": HYRSM}


def _network(method, backbone="resnet18", **settings):
    if method in LEARNT_CLASSES:
        settings = {"num_classes": 64} | settings
    return make_network(method, backbone=backbone, **settings)


def _abstract(method, backbone="resnet18", **settings):
    with torch.device("meta"):
        return _network(method, backbone, **settings)


@pytest.mark.parametrize(("backbone", "width"), [("resnet18", 512), ("resnet50", 2048)])
@pytest.mark.parametrize("method", OFFICIAL)
def test_names_and_shapes_are_those_of_official_checkpoints(method, backbone, width):
    sizes = {"d": width, "2d": 2 * width, "3d": 3 * width}
    expected = {
        name: tuple(sizes.get(size, size) for size in shape)
        for name, shape in OFFICIAL[method].items()
    }
    state = _abstract(method, backbone).state_dict()
    backbones = {n: t.shape for n, t in state.items() if n.startswith("backbone.")}
    shapes = {n: tuple(t.shape) for n, t in state.items() if n not in backbones}
    assert shapes == expected
    assert list(shapes) == list(expected)
    molo = _abstract("molo", backbone).state_dict()
    assert backbones == {n: t.shape for n, t in molo.items() if n.startswith("backbone.")}


def test_the_tuples_of_trx_are_whole_numbers_that_no_optimizer_moves():
    network = _network("trx")
    found = [t.tolist() for n, t in network.state_dict().items() if "transformers.1.tuples" in n]
    assert found == [[i, j, k] for i in range(8) for j in range(i + 1, 8) for k in range(j + 1, 8)]
    assert network.double().transformers[0].tuples[0].dtype == torch.int64
    moved = {id(p) for group in parameter_groups(network, 1.0) for p in group["params"]}
    names = {n for n, p in network.named_parameters() if id(p) not in moved}
    assert names == {n for n in OFFICIAL["trx"] if "tuples" in n}


def test_there_is_one_table_of_methods():
    assert list(methods.METHODS) == list(METHODS)
    with pytest.raises(ValueError, match="method 'tarn' is unknown; choose one of molo, protonet"):
        make_network("tarn")


def _random(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def _naive_otam(distances, smoothing):
    """One direction, number by number, as the recurrence is written."""
    rows, columns = distances.shape
    padded = np.pad(distances, ((0, 0), (1, 1)))
    cost = np.zeros((rows, columns + 2))
    for m in range(1, columns + 2):
        cost[0, m] = padded[0, m] + cost[0, m - 1]
    for i, m in itertools.product(range(1, rows), range(1, columns + 2)):
        before = [cost[i - 1, m - 1], cost[i, m - 1]]
        if m == 1:
            before = [cost[i - 1, 0], cost[i - 1, 1], cost[i, 0]]
        elif m == columns + 1:
            before.append(cost[i - 1, m])
        soft = -smoothing * np.log(sum(np.exp(-np.longdouble(one) / smoothing) for one in before))
        cost[i, m] = padded[i, m] + soft
    return cost[-1, -1]


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
@pytest.mark.parametrize("frames", [2, 5, 8])
def test_otam_is_the_written_recurrence_in_both_directions(frames, smoothing):
    distances = _random(3, 2, frames, frames).abs()
    ours = otam(distances, smoothing)
    assert ours.shape == (3, 2)
    for q, s in itertools.product(range(3), range(2)):
        one = distances[q, s].numpy()
        expected = _naive_otam(one, smoothing) + _naive_otam(one.T, smoothing)
        assert ours[q, s].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("frames", [9, 20])
def test_otam_does_not_underflow_with_many_frames(frames):
    # exp(-cost / 0.1) is 0 in float32 from a cost of 8.8 on.
    distances = (1.0 + _random(2, 2, frames, frames).abs()).float().requires_grad_()
    costs = otam(distances)
    exact = otam(distances.detach().double())
    assert costs.min() > 9
    np.testing.assert_allclose(costs.detach(), exact, rtol=1e-5)
    costs.sum().backward()
    assert distances.grad.isfinite().all()
    assert distances.grad.abs().max() > 0.1


def _clips(count, frames, seed=0, size=32):
    return _random(count, frames, 3, size, size, seed=seed).float()


def _run(network, frames=3, labels=(1, 0, 2, 1), queries=2):
    """Logits of an episode with shots that differ in number by class."""
    network.eval()
    with torch.no_grad():
        return network(
            _clips(len(labels), frames, 1), _clips(queries, frames, 2), torch.tensor(labels), 3
        )


def _features(network, frames=3, labels=(1, 0, 2, 1), queries=2):
    with torch.no_grad():
        return network.eval().frame_features(
            _clips(len(labels), frames, 1), _clips(queries, frames, 2)
        )


def test_protonet_is_the_mean_cosine_with_the_shots():
    torch.manual_seed(0)
    network = _network("protonet")
    support, query = (x.mean(1) for x in _features(network))
    cosines = [[q @ s / (q.norm() * s.norm() + 0.01) for s in support] for q in query]
    expected = [[row[1], (row[0] + row[3]) / 2, row[2]] for row in cosines]
    np.testing.assert_allclose(_run(network).logits, np.array(expected), rtol=1e-5)
    network.euclidean = True
    centers = torch.stack([support[1], (support[0] + support[3]) / 2, support[2]])
    expected = -torch.stack([(q - centers).square().sum(1) for q in query])
    np.testing.assert_allclose(_run(network).logits, expected, rtol=1e-4)


def test_bi_mhm_matches_frames_with_prototypes_and_otam_with_shots():
    torch.manual_seed(0)
    network = _network("bi_mhm")
    support, query = _features(network)
    classes = torch.stack([support[1], (support[0] + support[3]) / 2, support[2]])
    distances = cosine_distances(query, classes)
    expected = -(distances.min(3).values.sum(2) + distances.min(2).values.sum(2))
    np.testing.assert_allclose(_run(network).logits, expected, rtol=1e-5)
    other = _network("otam", smoothing=0.3)
    other.load_state_dict(network.state_dict())
    costs = otam(cosine_distances(query, support), 0.3)
    expected = -torch.stack([costs[:, 1], (costs[:, 0] + costs[:, 3]) / 2, costs[:, 2]], 1)
    np.testing.assert_allclose(_run(other).logits, expected, rtol=1e-5)


def test_trx_attends_from_each_tuple_to_all_tuples_of_all_shots_of_a_class():
    torch.manual_seed(0)
    network = _network("trx", frames=4, cardinalities=(3,))
    support, query = _features(network, frames=4)
    (one,) = network.transformers
    tuples = list(itertools.combinations(range(4), 3))

    def keys_and_values(video):
        with torch.no_grad():
            rows = one.pe(video[None])[0]
            joined = torch.stack([torch.cat([rows[i] for i in numbers]) for numbers in tuples])
            return one.norm_k(one.k_linear(joined)), one.v_linear(joined)

    expected = np.empty((2, 3))
    for q, c in itertools.product(range(2), range(3)):
        shots = [(1,), (0, 3), (2,)][c]
        keys, values = (
            torch.cat(x) for x in zip(*(keys_and_values(support[s]) for s in shots), strict=True)
        )
        total = 0.0
        for key, value in zip(*keys_and_values(query[q]), strict=True):
            weights = torch.softmax(keys @ key / 1152**0.5, 0)
            total += (value - weights @ values).square().sum()
        expected[q, c] = -total / len(tuples)
    np.testing.assert_allclose(_run(network, frames=4).logits, expected, rtol=1e-4)


@pytest.mark.parametrize("method", ["hyrsm", "hyrsm_pp"])
def test_prototypes_before_or_after_the_relation_are_the_same_with_one_shot_alone(method):
    torch.manual_seed(0)
    before, after = (_network(method, prototypes_first=first) for first in (True, False))
    after.load_state_dict(before.state_dict())
    for labels, same in (((2, 0, 1), True), ((2, 0, 1, 0), False)):
        logits = [_run(network, labels=labels).logits.numpy() for network in (before, after)]
        assert np.allclose(*logits, rtol=1e-4, atol=1e-5) == same


def test_the_support_of_hyrsm_depends_on_the_query():
    torch.manual_seed(0)
    network = _network("hyrsm")
    encoded = _random(3, 4, 512).float().relu(), _random(2, 4, 512, seed=1).float().relu()
    with torch.no_grad():
        support, query = network.eval()._related(*encoded)
    assert (support.shape, query.shape) == ((2, 3, 4, 512), (2, 4, 512))
    assert (support[0] - support[1]).abs().max() > 1e-3


def test_the_coherence_draws_neighbors_together_and_pushes_the_others_apart():
    network = _abstract("hyrsm_pp", window=2, balance=7.0, apart_weight=3.0)
    tokens = _random(2, 5, 6)
    unit = tokens / tokens.norm(dim=-1, keepdim=True)
    expected = np.empty((2, 5, 5))
    for v, i, j in itertools.product(range(2), range(5), range(5)):
        distance = 1 - (unit[v, i] @ unit[v, j]).item()
        apart = abs(i - j)
        margin = 1 - np.exp(-((apart - 2) ** 2) / 7.0)
        expected[v, i, j] = (
            distance / (apart**2 + 1) if apart <= 2 else 3.0 * max(0.0, margin - distance)
        )
    np.testing.assert_allclose(network._pairs(tokens), expected, atol=1e-12)
    both = network._coherence(tokens[None], tokens)
    assert both.item() == pytest.approx(2 * expected.mean(), rel=1e-9)


@pytest.mark.parametrize("matching", ["bi_mhm", "otam"])
def test_both_streams_of_molo_are_the_appearance_and_less_than_a_third_of_the_motion(matching):
    torch.manual_seed(0)
    both = _network("molo", matching=matching)
    outputs = {"both": _run(both)}
    for streams in ("appearance", "motion"):
        network = _network("molo", matching=matching, streams=streams)
        kept = network.state_dict()
        network.load_state_dict({n: t for n, t in both.state_dict().items() if n in kept})
        outputs[streams] = _run(network)
    appearance, motion = outputs["appearance"], outputs["motion"]
    expected = appearance.logits + 0.3 * motion.logits
    np.testing.assert_allclose(outputs["both"].logits, expected, rtol=1e-5)
    bias = both.classification_layer.bias.detach()
    expected = appearance.class_logits + motion.class_logits - bias
    np.testing.assert_allclose(outputs["both"].class_logits, expected, rtol=1e-3, atol=1e-4)
    assert appearance.logits_s2q_motion is None
    assert motion.logits_s2q is None
    for name in ("logits_s2q", "logits_q2s"):
        np.testing.assert_array_equal(getattr(appearance, name), getattr(outputs["both"], name))


def test_molo_with_otam_aligns_the_frames_behind_the_class_tokens():
    torch.manual_seed(0)
    network = _network("molo", matching="otam", smoothing=0.2, streams="appearance")
    tokens = {}
    hook = network.temporal_atte_before.register_forward_hook(
        lambda module, inputs, output: tokens.update({len(output): output.relu()[:, 1:]})
    )
    logits = _run(network).logits
    hook.remove()
    support = tokens[4]
    classes = torch.stack([support[1], (support[0] + support[3]) / 2, support[2]])
    expected = -otam(cosine_distances(tokens[2], classes), 0.2)
    np.testing.assert_allclose(logits, expected, rtol=1e-4)
    for name, value in (("matching", "dtw"), ("streams", "audio")):
        with pytest.raises(ValueError, match=f"{name} '{value}' is unknown; choose one of"):
            _abstract("molo", **{name: value})


def _episode(frames):
    return Episode(
        support=_clips(4, frames, 1),
        query=_clips(2, frames, 2),
        support_labels=torch.tensor([1, 0, 2, 1]),
        query_labels=torch.tensor([2, 0]),
        support_classes=torch.tensor([9, 5, 7, 9]),
        query_classes=torch.tensor([7, 5]),
    )


@pytest.mark.parametrize("frames", [3, 10])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_from_any_number_of_frames_shots_and_queries(method, frames):
    torch.manual_seed(0)
    network = _network(method, **({"frames": frames} if method == "trx" else {})).train()
    episode = _episode(frames)
    output = network(episode.support, episode.query, episode.support_labels, 3)
    assert output.logits.shape == (2, 3)
    terms = loss_terms(output, episode)
    assert list(terms) == list(methods.METHODS[method].losses.values())
    total_loss(terms, Coefficients(0.8, 0.05, 0.1, 0.3)).backward()
    unused = methods.METHODS[method].unused or ("/",)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and not name.endswith(unused):
            assert parameter.grad.isfinite().all(), name
    assert network.backbone[0].weight.grad.abs().max() > 0


def test_the_frames_of_hyrsm_are_classified_one_by_one_with_the_class_of_their_video():
    torch.manual_seed(0)
    episode = _episode(3)
    network = _network("hyrsm").eval()
    output = network(episode.support, episode.query, episode.support_labels, 3)
    classes = [9] * 3 + [5] * 3 + [7] * 3 + [9] * 3 + [7] * 3 + [5] * 3
    expected = -output.class_logits.log_softmax(1)[range(18), classes].mean()
    found = loss_terms(output, episode)["classification"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("distance", [bi_mean_hausdorff, otam])
def test_the_gradient_at_a_zero_vector_is_finite(distance):
    query, support = _random(2, 3, 4), _random(2, 3, 4, seed=1)
    query[0, 1] = 0.0
    query.requires_grad_()
    distance(cosine_distances(query, support)).sum().backward()
    assert query.grad.isfinite().all()


def test_clips_that_a_method_cannot_take_are_refused():
    labels = torch.tensor([0, 1])
    for method, frames, message in (
        ("trx", 4, "support clips have 4 frames; expected 8"),
        ("hyrsm", 21, "support clips have 21 frames; expected 1 to 20"),
        ("molo", 20, "support clips have 20 frames; expected 2 to 19"),
    ):
        with pytest.raises(ValueError, match=message):
            _abstract(method)(_clips(2, frames), _clips(1, frames), labels, 2)
    with pytest.raises(ValueError, match="clips of 2 frames have no tuples of 3"):
        _abstract("trx", frames=2)
    with pytest.raises(ValueError, match="support clips are 40x40; expected multiples of 32"):
        _abstract("otam")(_clips(2, 3, size=40), _clips(1, 3, size=40), labels, 2)

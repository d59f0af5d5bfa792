import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from molo_jax.engine.products import RowEpisodes, is_worth_it, product_logits
from molo_jax.engine.step import make_match
from molo_jax.methods.settings import (
    BiMHMSettings,
    HyRSMSettings,
    MoLoSettings,
    OTAMSettings,
    ProtoNetSettings,
)
from molo_jax.weights.networks import abstract_network

CLASSES, VIDEOS, FRAMES, WIDTH = 4, 5, 3, 6
ROWS = np.repeat(np.arange(CLASSES), VIDEOS)
EPISODES = 9
BACKBONE = {"num_classes": 3, "backbone": "resnet18"}
METHODS = {
    "molo": MoLoSettings(**BACKBONE),
    "molo, otam": MoLoSettings(**BACKBONE, matching="otam", smoothing=0.1),
    "molo, motion alone": MoLoSettings(**BACKBONE, streams="motion", single_direction=True),
    "bi_mhm": BiMHMSettings(**BACKBONE),
    "otam": OTAMSettings(**BACKBONE),
    "protonet": ProtoNetSettings(**BACKBONE),
    "protonet, euclidean": ProtoNetSettings(**BACKBONE, euclidean=True),
}


@pytest.fixture(scope="module", params=METHODS)
def method(request):
    """A network, and features of its kind for every row."""
    graphdef, *states = abstract_network(METHODS[request.param])
    # No weight enters a match.
    weights = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), states)
    model = nnx.merge(graphdef, *weights)
    kinds = jax.eval_shape(model.embed, jnp.zeros((1, FRAMES, 32, 32, 3)))
    random = np.random.default_rng(3)
    features = jax.tree.map(
        lambda leaf: random.normal(0.3, 1.0, (len(ROWS), *leaf.shape[1:])).astype(np.float32),
        kinds,
    )
    return graphdef, weights, model, features


def drawn(way, shots, queries):
    """Episodes by rows; the classes of the rows are in no order."""
    random = np.random.default_rng(way * 100 + shots)
    rows = np.empty((EPISODES, way, shots + queries), int)
    for episode in rows:
        for label, position in enumerate(random.choice(CLASSES, way, replace=False)):
            videos = random.choice(VIDEOS, shots + queries, replace=False)
            episode[label] = np.flatnonzero(position == ROWS)[videos]
    return RowEpisodes(rows[:, :, :shots], rows[:, :, shots:])


ASKED = [drawn(3, 1, 2), drawn(4, 2, 1), drawn(2, 3, 2)]


def directly(method, one):
    """The scores of the network's own match, episode by episode."""
    graphdef, weights, _, features = method
    way, shots = one.support.shape[1:]
    labels = np.tile(np.repeat(np.arange(way, dtype=np.int32), shots), (EPISODES, 1))
    match = make_match(graphdef, n_way=way)
    flat = (x.reshape(EPISODES, -1).astype(np.int32) for x in (one.support, one.query))
    found = match(*weights, jax.tree.map(jnp.asarray, features), *flat, labels)
    return np.asarray(found).reshape(*one.query.shape, way)


def check_same_scores(found, expected):
    """Both are the same up to a number for each query, and to the rounding of float32."""
    found, expected, size = (
        *(logits - logits.mean(axis=-1, keepdims=True) for logits in (found, expected)),
        np.abs(expected).max(),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * size + 1e-5)


# All in one part of the table, or two classes a part.
@pytest.mark.parametrize("budget", [2**30, 4 * (1 + FRAMES**2) * 100])
def test_the_scores_are_those_of_the_match_up_to_a_number_for_each_query(method, budget):
    streams = method[2].streams(method[3])
    counted = []
    found = list(product_logits(streams, ROWS, ASKED, budget=budget, advance=counted.append))
    assert sum(counted) == len(streams) * sum(one.entries for one in ASKED)
    for one, logits in zip(ASKED, found, strict=True):
        expected = directly(method, one)
        check_same_scores(logits, expected)
        assert (logits.argmax(-1) == expected.argmax(-1)).all()


def test_rows_of_classes_may_lie_in_any_order(method):
    _, _, model, features = method
    order = np.random.default_rng(0).permutation(len(ROWS))
    place = np.argsort(order)
    moved = jax.tree.map(lambda leaf: leaf[order], features)
    asked = [RowEpisodes(place[one.support], place[one.query]) for one in ASKED]
    for budget in (2**30, 4 * (1 + FRAMES**2) * 25):
        found = product_logits(model.streams(moved), ROWS[order], asked, budget=budget)
        for one, logits in zip(ASKED, found, strict=True):
            check_same_scores(logits, directly(method, one))


def test_many_episodes_are_taken_in_several_chunks(method, monkeypatch):
    import molo_jax.engine.products as products

    monkeypatch.setattr(products, "_ENTRIES", 16)
    monkeypatch.setattr(products, "_FEW_ENTRIES", 4)
    monkeypatch.setattr(products, "_SCORES_AT_ONCE", 100)
    found = product_logits(method[2].streams(method[3]), ROWS, ASKED, budget=2**30)
    for one, logits in zip(ASKED, found, strict=True):
        check_same_scores(logits, directly(method, one))


def test_a_table_is_worth_it_for_many_comparisons_that_fit(method):
    streams = method[2].streams(method[3])
    # 20 x 20 pairs of clips; the episodes compare 9 x (3 x 2 x 3) = 162 pairs.
    few = [drawn(3, 1, 2)]
    assert not is_worth_it(streams, ROWS, few, 2**30)
    assert is_worth_it(streams, ROWS, few * 3, 2**30)
    assert not is_worth_it({}, ROWS, few * 3, 2**30)
    # The clips of a class do not fit.
    assert not is_worth_it(streams, ROWS, few * 3, 4 * VIDEOS**2 - 1)


def test_a_method_whose_relation_depends_on_the_episode_has_no_streams():
    network = nnx.merge(*abstract_network(HyRSMSettings(**BACKBONE)))
    assert network.streams(None) == {}

import jax
import numpy as np
import pytest
from exported import drawn, prepare

from molo_jax.methods.settings import METHODS
from molo_jax.prediction.programs import named, programs, unnamed

FEATURES = {
    "molo": ("appearance", "motion"),
    "protonet": ("features",),
    "bi_mhm": ("features",),
    "otam": ("features",),
    "trx": ("features_0_keys", "features_0_values", "features_1_keys", "features_1_values"),
    "hyrsm": ("mapped", "means"),
    "hyrsm_pp": ("mapped", "means"),
}


@pytest.fixture(autouse=True)
def _prepared(monkeypatch):
    prepare(monkeypatch)


@pytest.mark.parametrize("method", METHODS)
def test_the_arrays_of_both_programs_have_names_and_their_numbers_are_free(method):
    embedder, matcher = programs(drawn(method))
    names = FEATURES[method]
    assert (embedder.name, embedder.inputs, embedder.outputs) == ("embedder", ("clips",), names)
    assert matcher.inputs == (
        *(f"support_{name}" for name in names),
        "members",
        *(f"query_{name}" for name in names),
    )
    assert matcher.outputs == ("logits",)
    (clips,) = embedder.arguments
    assert (str(clips.shape), clips.dtype) == ("(v, 4, 36, 36, 3)", np.uint8)
    first = [str(x.shape[0]) for x in jax.tree.leaves(matcher.arguments)]
    assert first == ["s"] * len(names) + ["s"] + ["q"] * len(names)
    assert str(matcher.results.shape) == "(q, n)"
    # In the order of their names, so that a name always is that of its array.
    assert tuple(embedder.results) == names
    assert list(embedder.results) == sorted(embedder.results)


def test_one_stream_alone_is_one_array():
    embedder, matcher = programs(drawn("molo", streams="motion"))
    assert embedder.outputs == ("motion",)
    assert matcher.inputs == ("support_motion", "members", "query_motion")


@pytest.mark.parametrize("method", METHODS)
def test_features_keep_their_structure_through_their_names(method):
    network = drawn(method)
    embedder, _ = programs(network)
    arrays = {name: number for number, name in enumerate(embedder.outputs)}
    features = unnamed(network, arrays)
    assert named(features) == arrays

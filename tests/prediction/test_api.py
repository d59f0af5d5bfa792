import subprocess
import sys

import jax
import numpy as np
import pytest
import torch
from made_weights import official_tensors, torchvision_tensors

import molo_jax
from molo_jax.errors import MoloError, UsageError
from molo_jax.prediction.api import classifier_of, load, load_classifier
from molo_jax.prediction.embedder import Embedder
from molo_jax.prediction.sources import make_network, variables_of


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(4).integers(0, 256, (6, 3, 40, 40, 3), np.uint8)


@pytest.fixture
def classifier(small_networks, pixels):
    made = classifier_of(small_networks("molo"), unknown=1.7)
    return made.fit({"прыжок": list(pixels[:2]), "b": list(pixels[2:4]), "c": [pixels[4]]})


def test_a_saved_classifier_predicts_the_same_without_embedding_its_clips(
    classifier, pixels, tmp_path
):
    classifier.save(tmp_path / "gym.molo", with_weights=True)
    again = load_classifier(tmp_path / "gym.molo")
    assert again.classes_.tolist() == ["прыжок", "b", "c"]
    assert again.unknown == 1.7
    before, after = (each.predict(pixels[5]) for each in (classifier, again))
    assert after.distances == before.distances
    assert after.strangeness == before.strangeness
    # The cache on disk has the query; nothing was embedded.
    assert again.embedder.embedded == 0
    assert load_classifier(tmp_path / "gym.molo", unknown="off").unknown == "off"


def test_a_file_without_weights_is_small_and_wants_the_weights_of_then(
    classifier, tmp_path, small_networks, monkeypatch
):
    classifier.save(tmp_path / "gym.molo")
    assert (tmp_path / "gym.molo").stat().st_size < 200_000
    with pytest.raises(MoloError, match=r"is not where it was \(a random molo does not exist\)"):
        load_classifier(tmp_path / "gym.molo")
    network = small_networks("molo")
    monkeypatch.setattr("molo_jax.prediction.api.open_network", lambda source, **_: network)
    assert load_classifier(tmp_path / "gym.molo", weights="moved").classes_.tolist()[1] == "b"
    values = variables_of(network)
    path = next(p for p in values if p[-1] == "kernel")
    other = make_network("o", network.settings, values | {path: values[path] * 2})
    monkeypatch.setattr("molo_jax.prediction.api.open_network", lambda source, **_: other)
    with pytest.raises(MoloError, match="saved with other weights than those of moved"):
        load_classifier(tmp_path / "gym.molo", weights="moved")


def test_the_package_offers_what_a_program_begins_with(tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save({n: torch.from_numpy(np.array(v)) for n, v in torchvision_tensors().items()}, path)
    classifier = molo_jax.load(path, cache=False)
    assert isinstance(classifier, molo_jax.Classifier)
    assert classifier.embedder.network.settings.title == "Bi-MHM"
    assert set(molo_jax.__all__) <= set(dir(molo_jax))
    with pytest.raises(AttributeError, match="has no attribute 'teach'"):
        _ = molo_jax.teach


def test_a_folder_of_compiled_programs_that_a_program_has_chosen_stays(tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save({n: torch.from_numpy(np.array(v)) for n, v in torchvision_tensors().items()}, path)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    load(path, cache=False)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)


def test_importing_the_package_imports_nothing_slow():
    program = (
        "import sys, molo_jax; print(*{'jax', 'flax', 'tensorflow', 'av'} & set(sys.modules));"
        "molo_jax.load; print(*{'tensorflow', 'ml_collections', 'torch'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []


def test_a_saved_classifier_keeps_its_precision_unless_another_one_is_asked_for(
    small_networks, pixels, tmp_path
):
    network = small_networks("bi_mhm")
    network = make_network(
        "x", network.settings, variables_of(network), rule=network.rule, precision="bf16"
    )
    path = tmp_path / "gym.molo"
    classifier_of(network, cache=False).fit({"a": [pixels[0]]}).save(path, with_weights=True)
    assert load_classifier(path).embedder.network.precision.name == "bf16"
    other = load_classifier(path, precision="float32")
    assert other.embedder.network.precision.name == "float32"
    with pytest.raises(UsageError, match="precision 'foo' is unknown; choose one of float32"):
        load_classifier(path, precision="foo")
    # A file without weights does not say of such a mistake that its network has gone.
    classifier_of(network, cache=False).fit({"a": [pixels[0]]}).save(path)
    with pytest.raises(UsageError, match="precision 'foo' is unknown; choose one of float32"):
        load_classifier(path, precision="foo")


def test_what_is_no_path_is_refused_with_what_is_expected(classifier):
    with pytest.raises(UsageError, match="the weights are 5; expected the path of a work folder"):
        load(5)
    with pytest.raises(UsageError, match="the saved classifier is 5; expected the path of a file"):
        load_classifier(5)
    with pytest.raises(MoloError, match="'5' is no clip; expected a path, or an array"):
        classifier.predict([5])


def write_weights(path, tensors):
    torch.save({n: torch.from_numpy(np.array(v)) for n, v in tensors.items()}, path)


@pytest.mark.usefixtures("keep_no_networks")
def test_weights_of_another_method_are_said_to_be_of_it(classifier, tmp_path):
    classifier.save(tmp_path / "gym.molo")
    write_weights(tmp_path / "hyrsm.pth", official_tensors(method="hyrsm"))
    write_weights(tmp_path / "bare.pth", torchvision_tensors())
    for name, what in (("hyrsm", "hyrsm"), ("bare", r"a backbone alone \(resnet18\)")):
        path = tmp_path / f"{name}.pth"
        message = f"gym.molo is a classifier of molo, and the weights of {path} are of {what}; name"
        with pytest.raises(UsageError, match=message):
            load_classifier(tmp_path / "gym.molo", weights=path)


@pytest.mark.usefixtures("keep_no_networks")
def test_a_classifier_finds_its_weights_from_another_folder(tmp_path, monkeypatch):
    write_weights(tmp_path / "bare.pth", torchvision_tensors())
    monkeypatch.chdir(tmp_path)
    classifier = load("bare.pth", cache=False)
    clip = np.zeros((8, 64, 64, 3), np.uint8)

    def nothing(self, pixels):
        return jax.tree.map(lambda x: np.zeros((len(pixels), *x.shape), x.dtype), self.structure)

    # The network need not see the clip.
    monkeypatch.setattr(Embedder, "embed_pixels", nothing)
    classifier.fit({"a": [clip]}).save("gym.molo")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = load_classifier("../gym.molo")
    assert again.embedder.network.source == f"{tmp_path}/bare.pth"
    monkeypatch.chdir(tmp_path)
    moved = load_classifier("gym.molo", weights="bare.pth")
    assert moved.embedder.network.source == f"{tmp_path}/bare.pth"

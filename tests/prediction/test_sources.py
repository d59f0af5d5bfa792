import numpy as np
import pytest
import torch
from made_weights import official_tensors, torchvision_tensors, variables

from molo_jax.errors import MoloError, UsageError
from molo_jax.methods.settings import METHODS
from molo_jax.prediction.clips import ClipRule
from molo_jax.prediction.sources import make_network, open_network, variables_of
from molo_jax.weights import imagenet

pytestmark = pytest.mark.usefixtures("keep_no_networks")


def write(path, tensors):
    torch.save({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}, path)
    return path


def test_an_official_file_gives_its_network_and_the_frames_of_ssv2(tmp_path):
    path = write(tmp_path / "official.pth", official_tensors())
    network = open_network(path)
    assert (network.settings.method, network.settings.backbone) == ("molo", "resnet18")
    assert network.rule == ClipRule(8, "segments", 256, 224)
    assert network.origin == "MoLo with resnet18; it is not known what it was trained on"
    found, expected = variables_of(network), variables()
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_file_of_a_backbone_compares_frames_without_any_training(tmp_path):
    path = write(tmp_path / "resnet18-abc.pth", torchvision_tensors())
    network = open_network(path)
    assert (network.settings.method, network.settings.backbone) == ("bi_mhm", "resnet18")
    assert "resnet18 with ImageNet weights, which never saw an action" in network.origin
    assert open_network(path, method="otam").settings.method == "otam"
    assert {name[0] for name in variables_of(network)} == {"backbone"}
    with pytest.raises(UsageError, match=r"molo has further weights.*choose one of protonet, bi"):
        open_network(path, method="molo")


def test_a_name_of_a_backbone_fetches_its_weights(tmp_path, monkeypatch):
    asked = []

    def fetched(backbone, **_):
        asked.append(backbone)
        return tmp_path / "fetched.pth"

    def read(pretrained, backbone):
        asked.append((pretrained, backbone))
        return {p: v for p, v in variables(method="bi_mhm").items() if p[0] == "backbone"}

    monkeypatch.setattr("molo_jax.prediction.sources.imagenet_file", fetched)
    monkeypatch.setattr("molo_jax.prediction.sources.pretrained_backbone", read)
    network = open_network("resnet18")
    assert (network.settings.backbone, network.source) == ("resnet18", "resnet18")
    assert asked == ["resnet18", (f"{tmp_path}/fetched.pth", "resnet18")]


def test_weights_that_cannot_be_fetched_are_said_with_what_a_prediction_can_do(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(imagenet, "_IMAGENET_URL", "http://127.0.0.1:9/")
    with pytest.raises(MoloError) as caught:
        open_network("resnet50")
    message = str(caught.value)
    assert f"put it at {tmp_path}/molo_jax/resnet50-0676ba61.pth" in message
    assert message.endswith("), or name it with --weights=PATH (in a program: load(PATH))")
    assert "--config" not in message


@pytest.mark.parametrize("tensors", [official_tensors, torchvision_tensors])
def test_the_source_of_a_file_is_absolute(tmp_path, monkeypatch, tensors):
    write(tmp_path / "w.pth", tensors())
    monkeypatch.chdir(tmp_path)
    assert open_network("w.pth").source == f"{tmp_path}/w.pth"


@pytest.mark.parametrize("source", [5, None, "", b"a.pth"])
def test_a_source_that_is_no_path_is_refused_with_what_is_expected(source):
    with pytest.raises(UsageError, match=r"the weights are .*; expected the path of a work folder"):
        open_network(source)


def test_a_precision_that_is_unknown_is_refused_of_weights_in_memory_too():
    settings = METHODS["bi_mhm"](num_classes=1, backbone="resnet18")
    values = variables(method="bi_mhm", num_classes=1)
    with pytest.raises(UsageError, match="precision 'foo' is unknown; choose one of float32"):
        make_network("mine", settings, values, precision="foo")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "tsn"}, "method 'tsn' is unknown; choose one of molo"),
        ({"precision": "fp8"}, "precision 'fp8' is unknown; choose one of float32, tf32, bf16"),
    ],
)
def test_an_unknown_value_is_refused_with_those_that_there_are(values, message):
    with pytest.raises(UsageError, match=message):
        open_network("resnet18", **values)


def test_a_source_that_is_none_is_refused(tmp_path):
    with pytest.raises(MoloError, match="absent does not exist"):
        open_network(tmp_path / "absent")


def test_the_digest_depends_on_everything_that_features_depend_on():
    settings = METHODS["bi_mhm"](num_classes=1, backbone="resnet18")
    values = variables(method="bi_mhm", num_classes=1)
    path = next(iter(values))
    other = values | {path: values[path] + 1}
    made = [
        make_network("a", settings, values),
        make_network("b", settings, values),
        make_network("a", settings, other),
        make_network("a", settings, values, rule=ClipRule(crop=192)),
        make_network("a", settings, values, precision="bf16"),
        make_network("a", METHODS["otam"](num_classes=1, backbone="resnet18"), values),
    ]
    digests = [network.digest for network in made]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 5


def test_weights_that_do_not_fit_are_named():
    settings = METHODS["bi_mhm"](num_classes=1, backbone="resnet18")
    values = dict(variables(method="bi_mhm", num_classes=1))
    path = next(iter(values))
    del values[path]
    with pytest.raises(MoloError, match=r"mine does not hold the weights .* is absent, expected"):
        make_network("mine", settings, values)

import dataclasses
import functools
import hashlib
import json
import re

import jax
import numpy as np
import pytest
from flax import nnx
from made_weights import official_tensors, torchvision_tensors, variables

from molo_jax import evaluate
from molo_jax.backbones import BACKBONES
from molo_jax.data.clips.dataset import VideoDataset
from molo_jax.engine.checkpoint import Checkpoints
from molo_jax.engine.mesh import make_mesh
from molo_jax.errors import MoloError
from molo_jax.methods.settings import MoLoSettings
from molo_jax.provenance import ListRecord, settings_seen
from molo_jax.results import Comparison
from molo_jax.weights import imagenet, networks, torch_files, torch_map

ARCHITECTURE = {"backbone": "resnet18", "num_classes": 7}
MODEL = MoLoSettings(num_classes=7, backbone="resnet18")
pytestmark = pytest.mark.usefixtures("keep_no_networks")


@functools.cache
def zeros(num_classes=7):
    """A network's parameters and statistics, all zero."""
    _, *states = networks.abstract_network(MoLoSettings(num_classes, "resnet18"))
    return [jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), s) for s in states]


def flat(*states):
    return {
        path: np.asarray(leaf[...]) for state in states for path, leaf in nnx.to_flat_state(state)
    }


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    path = tmp_path_factory.mktemp("official") / "x.safetensors"
    torch_files.write(path, official_tensors())
    return path


@pytest.fixture(scope="module")
def imagenet_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("imagenet") / "resnet18.pth"
    torch_files.write(path, torchvision_tensors(), layout="bare")
    return path


def save(folder, step, scale, **meta):
    """Saves a checkpoint in which all tensors hold one number."""
    params, batch_stats = (jax.tree.map(lambda x: x + x.dtype.type(scale), s) for s in zeros())
    with Checkpoints(folder) as checkpoints:
        model = {"params": params, "batch_stats": batch_stats}
        checkpoints.save(step, meta={"architecture": ARCHITECTURE} | meta, model=model)


def test_a_work_folder_gives_its_best_network_and_any_checkpoint_can_be_named(tmp_path):
    save(tmp_path / "checkpoints", 5, scale=5)
    assert load_scale(tmp_path) == ("checkpoints/5", 5, 5)
    save(tmp_path / "checkpoints", 6, scale=6)
    save(tmp_path / "best", 4, scale=4, config={"seed": 3})
    assert load_scale(tmp_path) == ("best/4", 4, 4)
    assert load_scale(tmp_path / "checkpoints") == ("checkpoints/6", 6, 6)
    assert load_scale(tmp_path / "checkpoints/5") == ("checkpoints/5", 5, 5)
    assert networks.load_weights(tmp_path / "best").meta["config"] == {"seed": 3}


def load_scale(path):
    weights = networks.load_weights(path)
    (scale,) = {float(value.ravel()[-1]) for value in weights.variables.values()}
    return "/".join(weights.source.split("/")[-2:]), weights.step, scale


@pytest.mark.parametrize("meta", [{"architecture": None}, {"architecture": {"backbone": "x"}}])
def test_a_checkpoint_of_something_else_is_named(tmp_path, meta):
    with Checkpoints(tmp_path / "other") as checkpoints:
        checkpoints.save(1, meta=meta, model={"w": np.zeros(2)})
    with pytest.raises(MoloError, match="other/1 is no checkpoint of molo_jax: its architecture"):
        networks.load_weights(tmp_path / "other")


def test_without_files_a_training_starts_from_the_random_weights():
    params, batch_stats = zeros()
    started = networks.starting_weights(MODEL, params, batch_stats)
    assert started[0] is params
    assert started[1] is batch_stats


def test_init_from_replaces_every_weight_and_leaves_imagenet_alone(official):
    sources = {"init_from": str(official), "pretrained": "/nowhere/resnet18.pth"}
    started = flat(*networks.starting_weights(MODEL, *zeros(), **sources))
    assert started.keys() == variables().keys()
    for path, value in variables().items():
        assert started[path].dtype == value.dtype
        np.testing.assert_array_equal(started[path], value)


def test_another_number_of_classes_needs_the_flag_and_then_the_classifier_stays_new(
    official,
):
    start = functools.partial(networks.starting_weights, init_from=str(official))
    nine = MoLoSettings(num_classes=9, backbone="resnet18")
    message = "was trained on 7 classes, and the train split has 9; with --config.init_new_classif"
    with pytest.raises(MoloError, match=message):
        start(nine, *zeros(9))
    started = flat(*start(nine, *zeros(9), new_classifier=True))
    kept = {path for path, value in started.items() if value.any()}
    assert kept == {path for path in variables() if path[0] != "classifier"}
    assert started[("classifier", "kernel")].shape == (512, 9)


def test_another_backbone_is_refused_with_the_value_that_fits(official, tmp_path):
    other = MoLoSettings(7, "resnet50")
    message = r"backbone is resnet18 there and resnet50 here; --config\.model\.backbone=resnet18"
    with pytest.raises(MoloError, match=message):
        networks.starting_weights(other, *zeros(), init_from=str(official))
    with pytest.raises(MoloError, match=message):
        load_network(str(official), tmp_path, other)


def test_a_network_that_lacks_a_stream_is_refused_with_the_value_that_fits():
    one = dataclasses.replace(MODEL, streams="appearance")
    message = "x lacks parts of the configured network: streams is appearance there and both here"
    with pytest.raises(MoloError, match=f"{message}; --config.method.streams=appearance would fit"):
        networks.check_kind("x", one, dataclasses.replace(MODEL, num_classes=9))
    # What is not wanted is left out.
    networks.check_kind("x", MODEL, one)
    for stored, wanted in ((one, MODEL), (MODEL, one)):
        message = f"streams is {stored.streams} in the checkpoint and {wanted.streams} here"
        with pytest.raises(MoloError, match=message):
            networks.check_same_network("x/7", stored.to_json(), wanted)
    # A setting that gives a network no other tensors may differ.
    weighted = dataclasses.replace(MODEL, motion_weight=0.5)
    networks.check_same_network("x/7", weighted.to_json(), MODEL)


def test_pretrained_fills_the_backbone_and_nothing_else(imagenet_path):
    started = flat(*networks.starting_weights(MODEL, *zeros(), pretrained=str(imagenet_path)))
    for path, value in variables().items():
        expected = value if path[0] == "backbone" else np.zeros_like(value)
        np.testing.assert_array_equal(started[path], expected)


def test_an_imagenet_file_from_before_counters_starts_them_at_zero(tmp_path):
    tensors = {n: v for n, v in torchvision_tensors().items() if "num_batches" not in n}
    torch_files.write(tmp_path / "old.pth", tensors, layout="bare")
    read = networks.pretrained_backbone(str(tmp_path / "old.pth"), "resnet18")
    assert read.keys() == {path for path in variables() if path[0] == "backbone"}
    assert read[("backbone", "bn1", "num_batches_tracked")] == 0


def renamed(tensors):
    return {name.replace("layer1", "features"): value for name, value in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"layer1.0.extra": t["bn1.bias"]}, r"network: backbone\.4\.0\.extra$"),
        (lambda t: t | {"bn1.bias": t["bn1.bias"] * np.nan}, r"finite .*: backbone\.1\.bias \(64"),
        (lambda t: {n: t[n] for n in ("fc.bias", "conv1.weight")}, r"no ResNet of torchvision: n"),
        (
            lambda t: {n: v for n, v in t.items() if n != "layer2.0.downsample.1.running_var"},
            r"missing in the file: backbone\.5\.0\.downsample\.1\.running_var$",
        ),
        (
            lambda t: {n: v for n, v in t.items() if n != "layer2.0.bn1.num_batches_tracked"},
            r"missing in the file: backbone\.5\.0\.bn1\.num_batches_tracked$",
        ),
    ],
)
def test_a_fault_in_an_imagenet_file_is_named(tmp_path, change, message):
    path = tmp_path / "x.safetensors"
    torch_files.write(path, change(torchvision_tensors()))
    with pytest.raises(MoloError, match=rf"x\.safetensors: .*{message}"):
        networks.pretrained_backbone(str(path), "resnet18")


def test_an_imagenet_file_of_another_resnet_says_which_value_fits(tmp_path, imagenet_path):
    message = r"holds a resnet18, and config\.model\.backbone is resnet50; --config\.model\.ba"
    with pytest.raises(MoloError, match=message):
        networks.pretrained_backbone(str(imagenet_path), "resnet50")
    names = [f"layer{s}.{n}.conv3.weight" for s, d in enumerate((3, 4, 23, 3), 1) for n in range(d)]
    torch_files.write(tmp_path / "x.safetensors", dict.fromkeys(names, np.zeros(1)))
    with pytest.raises(MoloError, match=r"3, 4, 23, 3 bottleneck blocks \(resnet101\); it must be"):
        networks.pretrained_backbone(str(tmp_path / "x.safetensors"), "resnet50")


def test_a_whole_network_given_as_pretrained_names_the_other_key(official):
    message = rf"it holds a whole network; use --config\.init_from={official}$"
    with pytest.raises(MoloError, match=message):
        networks.pretrained_backbone(str(official), "resnet18")


def load_network(source, workdir, settings=MODEL):
    return evaluate.load_network(source, workdir, settings, make_mesh())


def test_evaluation_uses_the_work_folder_or_else_init_from_as_a_file_or_folder(official, tmp_path):
    save(tmp_path / "best", 4, scale=4)
    network = load_network("", tmp_path)
    assert (network.checkpoint, network.step) == (str(tmp_path / "best/4"), 4)
    network = load_network(str(official), tmp_path)
    assert (network.checkpoint, network.step) == (str(official), 0)
    loaded = flat(network.params, network.batch_stats)
    for path, value in variables().items():
        np.testing.assert_array_equal(loaded[path], value)
    assert load_network(str(tmp_path), tmp_path / "none").step == 4


def motion_split(motion_data):
    return VideoDataset.open(
        *(motion_data / "videos", motion_data / "splits", "test"),
        on_bad_video="fail",
        how_to_get="",
    )


def test_settings_that_differ_from_a_checkpoints_are_warned_of_where_it_says_them(
    tmp_path, caplog, motion_data
):
    dataset = motion_split(motion_data)
    tested = ListRecord.of("folder", dataset.split)
    clips = {"num_frames": 8, "sampling": "segments", "resize": 256, "crop": 224}

    def compare():
        network = load_network(str(tmp_path), tmp_path)
        seen = settings_seen(clips, dataset, network.settings, "tf32")
        parts = network.origin, tested
        return Comparison.of(network.checkpoint, *parts, "test", seen=seen, refuse=True)

    save(tmp_path, 1, scale=1)
    assert compare().settings is None
    assert "not as in training" not in caplog.text
    stored = {"data": {"num_frames": 3, "sampling": "segments", "resize": 256}}
    architecture = ARCHITECTURE | {"positional_a": 2048.0, "dropout_position": 0.7}
    save(tmp_path, 2, scale=1, architecture=architecture, config=stored)
    compared = compare()
    assert compared.settings == {
        "data.num_frames": {"training": 3, "now": 8},
        "method.positional_a": {"training": 2048.0, "now": 10.0},
    }
    sentence = "data.num_frames was 3, is 8; method.positional_a was 2048.0, is 10.0"
    assert f"not as in training ({tmp_path}/2): {sentence}" in caplog.text
    assert compared.notes("test") == [f"warning: not as in training ({tmp_path}/2): {sentence}"]


def test_the_files_of_all_backbones_are_known_by_name_and_checksum():
    for backbone, info in BACKBONES.items():
        # torchvision puts the first eight digits of the checksum into the name.
        assert info.weights_file == f"{backbone}-{info.weights_digest[:8]}.pth"
        assert len(info.weights_digest) == 64


def known(monkeypatch, name, content):
    digest = hashlib.sha256(content).hexdigest()
    info = dataclasses.replace(BACKBONES["resnet18"], weights_file=name, weights_digest=digest)
    monkeypatch.setitem(BACKBONES, "resnet18", info)


def test_without_network_the_address_and_all_three_ways_out_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(imagenet, "_IMAGENET_URL", "http://127.0.0.1:9/")
    known(monkeypatch, "x.pth", b"")
    place = re.escape(str(tmp_path / "molo_jax/x.pth"))
    message = rf"http://127.0.0.1:9/x\.pth cannot .* put it at {place} .*, or .*"
    message += (
        r"--config\.model\.pretrained=PATH, or .* random weights: --config\.model\.pretrained=$"
    )
    with pytest.raises(MoloError, match=message):
        networks.imagenet_file("resnet18")


def test_imagenet_as_pretrained_reads_the_file_of_the_backbone(
    imagenet_path, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    known(monkeypatch, "r18.pth", imagenet_path.read_bytes())
    (tmp_path / "molo_jax").mkdir()
    (tmp_path / "molo_jax/r18.pth").write_bytes(imagenet_path.read_bytes())
    read = networks.pretrained_backbone("imagenet", "resnet18")
    kernel = torch_map.to_official(("kernel",), read[("backbone", "conv1", "kernel")])
    np.testing.assert_array_equal(kernel, torchvision_tensors()["conv1.weight"])


def test_another_architecture_is_named_with_both_values():
    stored = json.loads(json.dumps(MoLoSettings(64, "resnet18").to_json()))
    networks.check_same_network("x/7", stored, MoLoSettings(num_classes=64, backbone="resnet18"))
    message = (
        "the checkpoint x/7 is of another architecture: backbone is resnet18 in the checkpoint and"
        " resnet50 here; num_classes is 64 in the checkpoint and 31 here"
    )
    with pytest.raises(MoloError, match=message):
        networks.check_same_network(
            "x/7", stored, MoLoSettings(num_classes=31, backbone="resnet50")
        )


def test_other_dropout_is_no_other_architecture():
    stored = MoLoSettings(num_classes=5, dropout_position=0.3).to_json()
    networks.check_same_network("x", stored, MoLoSettings(num_classes=5, dropout_position=0.0))

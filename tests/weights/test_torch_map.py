"""The map between our variables and official tensors."""

import json
import pathlib

import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from molo_jax.methods.molo import MoLo
from molo_jax.methods.settings import MoLoSettings, TRXSettings
from molo_jax.methods.trx import TRX
from molo_jax.weights import torch_map

GOLDEN = pathlib.Path(__file__).parents[2] / "parity_tests" / "golden"
OUTPUT = ("motion_decoder", "output")
COUNTER = ("motion_decoder", "blocks", 0, "bn", "num_batches_tracked")


def _shapes(backbone="resnet18"):
    config = MoLoSettings(num_classes=64, backbone=backbone)
    model = nnx.eval_shape(lambda: MoLo(config, rngs=nnx.Rngs(0)))
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    return {path: tuple(value.shape) for path, value in nnx.to_flat_state(state)}


@pytest.fixture(scope="module")
def shapes():
    return _shapes()


@pytest.fixture(scope="module")
def shapes50():
    return _shapes("resnet50")


@pytest.fixture
def tensors(shapes):
    made = {}
    for number, (path, shape) in enumerate(shapes.items()):
        counts = path[-1] == "num_batches_tracked"
        values = np.arange(np.prod(shape, dtype=int)).reshape(shape)
        value = (number + values).astype(np.int64 if counts else np.float32)
        made[torch_map.official_name(path)] = torch_map.to_official(path, value)
    return made


def test_every_variable_has_its_own_official_name(shapes, shapes50):
    for own in (shapes, shapes50):
        assert len({torch_map.official_name(path) for path in own}) == len(own)


def test_names_and_decay_are_those_of_the_recorded_run(shapes):
    with np.load(GOLDEN / "r18_steps.npz") as recorded:
        names = {k.removeprefix("param/") for k in recorded.files if k.startswith("param/")}
        buffers = {k.removeprefix("stat/") for k in recorded.files if k.startswith("stat/")}
        no_decay = set(json.loads(str(recorded["meta"]))["no_decay"])
    paths = {torch_map.official_name(path): path for path in shapes}
    ours = {name for name in paths if not name.endswith("num_batches_tracked")}
    assert ours == names | buffers
    assert {name for name in names if not torch_map.decays(paths[name])} == no_decay


def test_layouts_are_transposed_to_output_first():
    kernel = np.arange(24.0).reshape(1, 2, 3, 4)
    official = torch_map.to_official(("motion_expansion", "kernel"), kernel)
    assert official.shape == (4, 3, 1, 2)
    assert official[3, 1, 0, 1] == kernel[0, 1, 1, 3]
    np.testing.assert_array_equal(
        torch_map.from_official(("motion_expansion", "kernel"), official), kernel
    )


def test_import_inverts_export_bit_for_bit(shapes, tensors):
    imported = torch_map.exact_values(torch_map.import_tensors(tensors, shapes))
    exported = torch_map.export_tensors(imported)
    assert exported.keys() == tensors.keys()
    for name, value in tensors.items():
        assert exported[name].dtype == value.dtype
        assert exported[name].flags.c_contiguous
        np.testing.assert_array_equal(exported[name], value)


def test_an_export_has_the_order_of_a_state_dict(shapes, tensors):
    imported = torch_map.import_tensors(tensors, shapes)
    names = list(torch_map.export_tensors(imported, {"pe.pe": np.zeros((1, 20, 512))}))
    assert names[:6] == [
        *("scale", "scale_motion", "class_token", "class_token_motion"),
        *("backbone.0.weight", "backbone.1.weight"),
    ]
    block = [name for name in names if name.startswith("backbone.5.0.")]
    leaves = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert [name.removeprefix("backbone.5.0.") for name in block] == [
        *("conv1.weight", *(f"bn1.{leaf}" for leaf in leaves)),
        *("conv2.weight", *(f"bn2.{leaf}" for leaf in leaves)),
        *("downsample.0.weight", *(f"downsample.1.{leaf}" for leaf in leaves)),
    ]
    place = names.index("pe.pe")
    assert names[place - 1] == "backbone.7.1.bn2.num_batches_tracked"
    assert names[place + 1] == "temporal_atte_before.layers.0.0.norm.weight"
    assert names[-1] == "outc.conv.bias"


def test_import_names_missing_unexpected_and_misshapen_tensors_by_side(shapes, tensors):
    del tensors["scale"]
    tensors["outc.conv.weight"] = np.zeros((3, 15, 1, 1))
    tensors["fc.weight"] = np.zeros(2)
    with pytest.raises(ValueError, match="missing in the file: scale; not part of") as error:
        torch_map.import_tensors(tensors, shapes)
    assert str(error.value).endswith(
        "not part of the network: fc.weight; of another shape: outc.conv.weight has shape"
        " (3, 15, 1, 1), expected (3, 16, 1, 1)"
    )


def test_a_long_list_of_names_is_shortened_to_the_first_and_a_count(shapes, tensors):
    names = [name for name in tensors if name.startswith("backbone.4.0.")]
    for name in names:
        del tensors[name]
    message = r"backbone\.4\.0\.conv1\.weight, .*backbone\.4\.0\.bn1\.running_mean and 8 more$"
    with pytest.raises(ValueError, match=message):
        torch_map.import_tensors(tensors, shapes)


def test_a_name_with_a_line_end_leaves_the_message_on_one_line():
    assert torch_map.listed(["a", "b\nc"]) == "a, 'b\\nc'"


def test_a_fixed_buffer_may_be_absent_but_not_another_one(shapes, tensors):
    fixed = {"pe.pe": np.linspace(-1, 1, 40, dtype=np.float32).reshape(1, 20, 2)}
    torch_map.import_tensors(tensors, shapes, fixed)
    torch_map.import_tensors(tensors | {"pe.pe": fixed["pe.pe"] + 5e-7}, shapes, fixed)
    for wrong in (fixed["pe.pe"] + 5e-6, fixed["pe.pe"] * np.nan):
        with pytest.raises(ValueError, match=r"pe\.pe has other values than the positional"):
            torch_map.import_tensors(tensors | {"pe.pe": wrong}, shapes, fixed)
    with pytest.raises(ValueError, match=r"pe\.pe has shape \(1, 19, 2\), expected \(1, 20, 2\)"):
        torch_map.import_tensors(tensors | {"pe.pe": fixed["pe.pe"][:, 1:]}, shapes, fixed)


def test_a_tuple_of_frames_that_is_another_one_is_called_that():
    fixed = TRX.fixed_buffers(TRXSettings(num_classes=1, backbone="resnet18"))
    wrong = {
        "transformers.1.tuples.3": np.array([0, 2, 1]),
        "transformers.0.pe.pe": fixed["transformers.0.pe.pe"] + 1,
    }
    message = (
        "transformers.0.pe.pe has other values than the positional encoding,"
        " transformers.1.tuples.3 has other values than the tuple of frames$"
    )
    with pytest.raises(ValueError, match=message):
        torch_map.import_tensors(wrong, {}, fixed)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.float32])
def test_every_value_of_a_float_dtype_becomes_the_same_float32(dtype):
    value = np.array([0.1, -3.0, 1.5e-5]).astype(np.float16).astype(dtype)
    exact = torch_map.exact_values({("contrast_scale",): value})[("contrast_scale",)]
    assert exact.dtype == np.float32
    np.testing.assert_array_equal(exact.astype(np.float64), value.astype(np.float64))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((*OUTPUT, "bias"), [1.0, np.nan, np.inf], r"not finite .*: outc\.conv\.bias \(2 values\)"),
        ((*OUTPUT, "bias"), np.array([1.0], np.float16) * np.inf, r"not finite .*outc\.conv\.bias"),
        ((*OUTPUT, "bias"), [0.1], r"float64 values that float32 cannot hold: outc\.conv\.bias$"),
        ((*OUTPUT, "bias"), [1e300], r"float64 values that float32 cannot hold: outc\.conv\.bias$"),
        ((*OUTPUT, "bias"), [1], r"no floating-point weights: outc\.conv\.bias \(int64\)"),
        ((*OUTPUT, "bias"), [1j], r"no floating-point weights: outc\.conv\.bias \(complex128\)"),
        (
            COUNTER,
            2**31,
            "not between 0 and 2147483647: up1.conv.double_conv.1.num.*2147483648",
        ),
        ((*COUNTER[:-1], "var"), [0.0, -0.5], r"below 0, .*running_var \(1 values\)"),
        (COUNTER, -1, "not between 0 and 2147483647"),
        (
            COUNTER,
            1.0,
            r"no whole numbers: .*num_batches_tracked \(float",
        ),
    ],
)
def test_a_value_that_would_change_or_is_no_number_is_named(path, value, message):
    with pytest.raises(ValueError, match=message):
        torch_map.exact_values({path: np.array(value)})


def test_bfloat16_infinity_is_found():
    value = np.array([np.inf, 1]).astype(ml_dtypes.bfloat16)
    with pytest.raises(ValueError, match=r"not finite .*scale \(1 values\)"):
        torch_map.exact_values({("contrast_scale",): value})


def test_the_largest_counter_is_kept():
    path = COUNTER
    exact = torch_map.exact_values({path: np.array(2**31 - 1)})[path]
    assert exact.dtype == np.int32
    assert torch_map.export_tensors({path: exact})[torch_map.official_name(path)] == 2**31 - 1


@pytest.mark.parametrize("prefix", ["", "head.", "module.", "module.head."])
def test_one_prefix_is_taken_off_all_names(prefix):
    zero = np.zeros(1)
    names = ("scale", "outc.conv.bias")
    found, bare = torch_map.without_prefix({prefix + name: zero for name in names})
    assert (found, tuple(bare)) == (prefix, names)


def test_a_mixture_of_prefixes_is_refused_with_an_example_of_each():
    names = ("head.scale", "head.outc.conv.bias", "module.head.scale", "class_token")
    message = (
        r"different prefixes: class_token \(1 such\), head\.scale \(2 such\), module\.head\.scale"
        r" \(1 such\); given twice: scale$"
    )
    with pytest.raises(ValueError, match=message):
        torch_map.without_prefix(dict.fromkeys(names, np.zeros(1)))


def _as_torchvision(tensors):
    """Names a backbone as torchvision does, independently of the map."""
    stem = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    named = {}
    for name, value in tensors.items():
        if name.startswith("backbone."):
            _, number, rest = name.split(".", 2)
            named[f"{stem[number]}.{rest}"] = value
    return named | {"fc.weight": np.zeros((1000, 512)), "fc.bias": np.zeros(1000)}


def test_torchvision_names_become_official_ones_without_the_classifier(tensors):
    backbone = {name: value for name, value in tensors.items() if name.startswith("backbone.")}
    renamed = torch_map.from_torchvision(_as_torchvision(tensors))
    assert renamed.keys() == backbone.keys()
    for name, value in backbone.items():
        assert renamed[name] is value


def test_counters_that_old_files_lack_become_zero_but_only_all_at_once(tensors):
    full = _as_torchvision(tensors)
    old = {name: value for name, value in full.items() if "num_batches" not in name}
    renamed = torch_map.from_torchvision(old)
    assert renamed.keys() == torch_map.from_torchvision(full).keys()
    assert renamed["backbone.4.1.bn2.num_batches_tracked"] == 0
    old["bn1.num_batches_tracked"] = np.int64(1)
    renamed = torch_map.from_torchvision(old)
    assert "backbone.4.1.bn2.num_batches_tracked" not in renamed


def test_backbone_and_number_of_classes_are_found_from_names_and_shapes(shapes, shapes50):
    for backbone, own in (("resnet18", shapes), ("resnet50", shapes50)):
        names = [torch_map.official_name(path) for path in own]
        named = dict.fromkeys(names, np.zeros(1)) | {"classification_layer.bias": np.zeros(31)}
        assert torch_map.recognize(named) == ("molo", backbone, 31)


@pytest.mark.parametrize(
    ("blocks", "bottleneck", "message"),
    [
        (
            (3, 4, 23, 3),
            True,
            r"3, 4, 23, 3 bottleneck blocks \(resnet101\); it must be one of res",
        ),
        ((2, 2, 1, 2), False, "the backbone has 2, 2, 1, 2 basic blocks; it must be one of resnet"),
        ((0, 0, 0, 0), False, "the backbone has 0, 0, 0, 0 basic blocks"),
    ],
)
def test_another_resnet_is_refused_with_what_was_found(blocks, bottleneck, message):
    last = "conv3" if bottleneck else "conv2"
    names = ["backbone.0.weight"]
    for stage, count in enumerate(blocks, 4):
        names += [f"backbone.{stage}.{number}.{last}.weight" for number in range(count)]
    with pytest.raises(ValueError, match=message):
        torch_map.recognize(dict.fromkeys(names, np.zeros(1)))


def test_resnet34_is_told_from_resnet50_by_its_blocks():
    names = [
        f"backbone.{stage}.{number}.conv2.weight"
        for stage, count in enumerate((3, 4, 6, 3), 4)
        for number in range(count)
    ]
    assert torch_map.recognize_backbone(names) == "resnet34"
    assert torch_map.recognize_backbone([*names, "backbone.4.0.conv3.weight"]) == "resnet50"


def test_a_network_of_another_kind_or_without_classifier_is_refused(tensors):
    with pytest.raises(
        ValueError, match=r"no network of a method: none of its 1 tensors .*blocks\.0\.w"
    ):
        torch_map.recognize({"blocks.0.w": np.zeros(1)})
    headless = {n: v for n, v in tensors.items() if not n.startswith("classification_layer")}
    with pytest.raises(ValueError, match=r"number of classes .* classification_layer\.weight and"):
        torch_map.recognize(headless)

"""Networks are written as programs that compute what the network itself computes."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from documented import ROOT
from exported import NARROW, RULE, drawn, embedded, matched, pixels, prepare
from made_weights import official_tensors
from test_documentation import arguments_of, error_line, run_all

from molo_jax.data.video.images import resize_frames
from molo_jax.errors import MoloError
from molo_jax.methods.settings import METHODS
from molo_jax.prediction import export_folder
from molo_jax.prediction.export_folder import check_installed
from molo_jax.prediction.exporting import summary, write_export
from molo_jax.prediction.programs import named
from molo_jax.weights import torch_files

pytestmark = pytest.mark.usefixtures("keep_no_networks")
FORMATS = ("stablehlo", "onnx")
LABELS = [0, 2, 1, 0, 2]
PAGE = (ROOT / "docs/export.md").read_text()


@pytest.fixture(autouse=True)
def _prepared(monkeypatch):
    prepare(monkeypatch)


class Loaded:
    """An export of either format, by names."""

    def __init__(self, folder):
        self.metadata = json.loads((folder / "metadata.json").read_text())
        self.run = {}
        for name, program in self.metadata["programs"].items():
            file = folder / program["file"]
            reader = self._onnx if self.metadata["format"] == "onnx" else self._stablehlo
            self.run[name] = reader(file)

    def _onnx(self, file):
        session = onnxruntime.InferenceSession(str(file))
        names = [output.name for output in session.get_outputs()]
        return lambda arrays: dict(zip(names, session.run(None, arrays), strict=True))

    def _stablehlo(self, file):
        exported = jax.export.deserialize(bytearray(file.read_bytes()))
        assert exported.platforms == ("cpu", "cuda")

        def run(arrays):
            if "clips" in arrays:
                return exported.call(arrays["clips"])
            sets = (
                {k.removeprefix(f"{s}_"): v for k, v in arrays.items() if k.startswith(f"{s}_")}
                for s in ("support", "query")
            )
            support, query = sets
            return {"logits": exported.call(support, arrays["members"], query)}

        return run

    def embed(self, clips):
        return self.run["embedder"]({"clips": clips})

    def match(self, support, labels, query, n_way):
        arrays = {"members": np.eye(n_way, dtype=np.float32)[labels]}
        arrays |= {f"support_{name}": np.asarray(value) for name, value in support.items()}
        arrays |= {f"query_{name}": np.asarray(value) for name, value in query.items()}
        return self.run["matcher"](arrays)["logits"]


CASES = [
    *(pytest.param(name, {}, id=name) for name in METHODS),
    pytest.param("molo", {"matching": "otam", "streams": "motion"}, id="molo-otam-motion"),
    pytest.param("hyrsm", {"prototypes_first": False}, id="hyrsm-every-shot"),
    pytest.param("protonet", {"euclidean": True}, id="protonet-euclidean"),
]


@pytest.mark.parametrize(("method", "settings"), CASES)
def test_every_method_is_exported_in_both_formats_and_both_equal_the_network(
    tmp_path, method, settings
):
    network = drawn(method, **settings)
    clips = pixels(network, 7)
    features = embedded(network, clips)
    support, query = part(features, slice(5)), part(features, slice(5, 7))
    logits = matched(network, support, np.array(LABELS), query, 3)
    # Two of the classes, one shot of each, one query.
    few, single = part(features, slice(1, 3)), part(features, slice(5, 6))
    few_logits = matched(network, few, np.array([1, 0]), single, 2)
    for form in FORMATS:
        write_export(network, tmp_path / form, form)
        loaded = Loaded(tmp_path / form)
        assert_equal(loaded.embed(clips[:3]), named(part(features, slice(3))))
        assert_equal(loaded.match(named(support), LABELS, named(query), 3), logits)
        # JAX compiles a program anew for other numbers, which takes its time.
        if form == "onnx" or method == "protonet":
            assert_equal(loaded.embed(clips[3:4]), named(part(features, slice(3, 4))))
            assert_equal(loaded.match(named(few), [1, 0], named(single), 2), few_logits)


@pytest.mark.usefixtures("memory_of_a_test")
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_real_backbones_are_exported_too(tmp_path, backbone):
    network = drawn("protonet", backbone, dataclasses.replace(RULE, num_frames=1))
    clips = pixels(network, 3)
    expected = named(embedded(network, clips))
    for form in FORMATS:
        write_export(network, tmp_path / form, form)
        assert_equal(Loaded(tmp_path / form).embed(clips), expected)


def part(features, place):
    return jax.tree.map(lambda x: x[place], features)


def assert_equal(found, expected):
    jax.tree.map(
        lambda mine, theirs: np.testing.assert_allclose(mine, theirs, atol=1e-4, rtol=0),
        found,
        expected,
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Both formats of one network with the frames of the documentation, and the network."""
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        network = drawn("molo")
        folder = tmp_path_factory.mktemp("page")
        for form in FORMATS:
            (folder / "exported").mkdir(exist_ok=True)
            write_export(network, folder / "exported" / form, form)
        clips = pixels(network, 7)
        features = embedded(network, clips)
        support = jax.tree.map(lambda x: x[:4], features)
        query = jax.tree.map(lambda x: x[4:], features)
        logits = matched(network, support, np.array([0, 0, 1, 1]), query, 2)
    np.save(folder / "support.npy", clips[:4])
    np.save(folder / "query.npy", clips[4:])
    return folder, network, logits


def blocks(title):
    """The Python of one section of the page."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)[1]
    return "".join(re.findall(r"^```python\n(.*?)^```", section, re.M | re.S))


@pytest.mark.parametrize(
    ("title", "absent"),
    [
        ("With ONNX Runtime and NumPy", ("molo_jax", "flax", "jax")),
        ("With JAX", ("molo_jax", "flax", "einops")),
    ],
)
def test_the_example_of_the_page_runs_without_this_package(exported, title, absent):
    folder, _, logits = exported
    blocked = f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
    program = f"{blocked}{blocks(title)}np.save('logits.npy', logits)\n"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    np.testing.assert_allclose(np.load(folder / "logits.npy"), logits, atol=1e-4, rtol=0)
    assert result.stdout.strip() == str(logits.argmax(axis=1))


def test_the_squares_of_the_page_are_those_of_the_package():
    names = {}
    exec(blocks("Frames of a video"), names)
    frames = np.random.default_rng(1).integers(0, 256, (21, 30, 47, 3), np.uint8)
    found = names["clip_of"](frames, 8, 36)
    np.testing.assert_array_equal(found, resize_frames(frames[1::2][:8], 36))
    short = names["clip_of"](frames[:3], 8, 36)
    np.testing.assert_array_equal(short, resize_frames(frames[[0, 0, 0, 1, 1, 1, 2, 2]], 36))


@pytest.mark.parametrize("form", FORMATS)
def test_the_metadata_describe_the_files(exported, form):
    folder, network, _ = exported
    folder = folder / "exported" / form
    metadata = json.loads((folder / "metadata.json").read_text())
    assert (metadata["format_version"], metadata["format"]) == (1, form)
    assert metadata["settings"] == network.settings.to_json()
    assert (metadata["method"], metadata["backbone"]) == ("molo", NARROW)
    assert (metadata["source"], metadata["origin"]) == (network.source, network.origin)
    assert metadata["network_digest"] == network.digest
    clips = metadata["clips"]
    assert [clips[key] for key in ("frames", "resize", "crop")] == [4, 36, 32]
    assert clips["choice"].startswith("segments: n = length // T; frame k is k n + n // 2")
    assert "without antialiasing" in clips["resizing"]
    assert metadata["versions"]["molo-jax"]
    assert {file.name for file in folder.iterdir()} == {
        "metadata.json",
        *(f"{name}.{form}" for name in ("embedder", "matcher")),
    }
    for program in metadata["programs"].values():
        content = (folder / program["file"]).read_bytes()
        assert (program["sha256"], program["bytes"]) == (
            sha256(content).hexdigest(),
            len(content),
        )
    embedder, matcher = metadata["programs"]["embedder"], metadata["programs"]["matcher"]
    (clips,) = embedder["inputs"]
    assert (clips["name"], clips["dtype"]) == ("clips", "uint8")
    assert clips["shape"] == ["v", 4, 36, 36, 3]
    assert embedder["outputs"][0] == {
        "name": "appearance",
        "shape": ["v", 5, 64],
        "dtype": "float32",
    }
    assert [each["name"] for each in matcher["inputs"]] == [
        *("support_appearance", "support_motion", "members"),
        *("query_appearance", "query_motion"),
    ]
    assert matcher["outputs"] == [{"name": "logits", "shape": ["q", "n"], "dtype": "float32"}]


def test_the_onnx_files_name_their_arrays_and_are_read_by_older_runtimes(exported):
    folder, *_ = exported
    metadata = json.loads((folder / "exported/onnx/metadata.json").read_text())
    for program in metadata["programs"].values():
        model = onnx.load(folder / "exported/onnx" / program["file"])
        # What ONNX Runtime 1.18 reads at most.
        assert model.ir_version <= 10
        assert [(o.domain, o.version) for o in model.opset_import] == [("", metadata["opset"])]
        assert metadata["opset"] <= 21
        for described, values in (
            (program["inputs"], model.graph.input),
            (program["outputs"], model.graph.output),
        ):
            assert [each["name"] for each in described] == [value.name for value in values]
            for each, value in zip(described, values, strict=True):
                sizes = value.type.tensor_type.shape.dim
                assert [size.dim_param or size.dim_value for size in sizes] == each["shape"]


def test_the_summary_names_the_arrays_and_the_files(exported):
    folder, *_ = exported
    metadata = json.loads((folder / "exported/onnx/metadata.json").read_text())
    lines = summary(metadata, Path("out")).splitlines()
    assert "source    runs/drawn, drawn weights" in lines
    assert "clips     4 frames of 36×36 pixels, the middle 32 of them; segments" in lines
    assert (
        "embedder  clips uint8 (v, 4, 36, 36, 3) → appearance float32 (v, 5, 64), motion float32"
        " (v, 4, 64)"
    ) in lines
    assert re.search(r"^written   out: embedder\.onnx \(\d+\.\d MB\), matcher", lines[-1])


def fails(network, folder, message, **options):
    with pytest.raises(MoloError, match=message):
        write_export(network, folder, "stablehlo", **options)


def test_what_exists_is_replaced_only_on_demand_and_only_an_export(tmp_path):
    network, folder = drawn("bi_mhm"), tmp_path / "out"
    write_export(network, folder, "stablehlo")
    before = (folder / "metadata.json").read_bytes()
    fails(network, folder, f"^{folder} exists; choose another --out, or replace it with --overw")
    assert (folder / "metadata.json").read_bytes() == before
    write_export(drawn("protonet"), folder, "stablehlo", overwrite=True)
    assert json.loads((folder / "metadata.json").read_text())["method"] == "protonet"
    (folder / "notes.txt").write_text("mine")
    fails(network, folder, r"holds other things than an export \(notes.txt\)", overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    fails(network, tmp_path / "file", "is no folder of an export", overwrite=True)
    fails(network, tmp_path / "file/out", f"cannot be made: {tmp_path}/file is a file, no folder")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "out"]


def test_an_operation_that_the_format_lacks_is_one_line_and_nothing_stays(tmp_path, monkeypatch):
    network = drawn("bi_mhm")

    def match(self, support, query, labels, *, n_way, **_):
        del labels, n_way
        return {}, jax.random.normal(jax.random.key(0), (query.shape[0], support.shape[0]))

    monkeypatch.setattr(network.settings.network_class(), "score", match)
    with pytest.raises(
        MoloError, match="the matcher of runs/drawn cannot be written as onnx: "
    ) as e:
        write_export(network, tmp_path / "out", "onnx")
    assert "\n" not in str(e.value)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_and_keeps_what_was_there(tmp_path, monkeypatch):
    network, folder = drawn("bi_mhm"), tmp_path / "out"
    write_export(network, folder, "stablehlo")

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    fails(network, folder, f"{folder} cannot be written: No space left", overwrite=True)
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
    assert Loaded(folder).metadata["method"] == "bi_mhm"


def test_an_absent_extra_is_named_with_the_command_that_installs_it(monkeypatch):
    known = export_folder.importlib.util.find_spec
    monkeypatch.setattr(
        export_folder.importlib.util,
        "find_spec",
        lambda name: None if name == "jax2onnx" else known(name),
    )
    message = "--format=onnx needs jax2onnx; install with: pip install 'molo-jax\\[onnx\\]'"
    with pytest.raises(MoloError, match=f"^{message}$"):
        check_installed("onnx")
    check_installed("stablehlo")


WRONG = {
    "": (2, "--weights is required; --help says what it is"),
    "--weights=x": (2, "--out is required; --help says what it is"),
    "--weights=x --out=y --format=tflite": (2, "flag --format=tflite: value should be one of <"),
    "--weights=x --out=y --methd=otam": (2, "unknown flag --methd; did you mean --method?"),
    "--weights=x --out=y z": (2, "unexpected argument 'z'"),
    "--weights=x --out=.": (1, ". exists; choose another --out, or replace it with --overwrite"),
}


def test_a_wrong_flag_is_one_line(tmp_path):
    runs = run_all("molo_jax.export", [words.split() for words in WRONG], tmp_path)
    for (code, said, errors), (expected, message) in zip(runs, WRONG.values(), strict=True):
        assert (code, said) == (expected, ""), errors
        assert message in error_line(errors)
    assert list(tmp_path.iterdir()) == []


def test_the_commands_of_the_page_write_both_formats(tmp_path):
    torch_files.write(tmp_path / "x.pth", official_tensors(method="protonet"))
    documented = [words for words, _ in arguments_of("molo_jax.export") if "runs/" in words[0]]
    commands = [
        [word.replace("runs/ssv2_5shot", "x.pth") for word in words] for words in documented
    ]
    assert len(commands) == 2
    for code, said, errors in run_all("molo_jax.export", commands, tmp_path):
        assert code == 0, errors
        assert "method    ProtoNet\nbackbone  resnet18\n" in said
    for form in FORMATS:
        metadata = json.loads((tmp_path / "exported" / form / "metadata.json").read_text())
        assert metadata["clips"]["frames"] == 8
        (clips,) = metadata["programs"]["embedder"]["inputs"]
        assert clips["shape"] == ["v", 8, 256, 256, 3]

import errno
import json
import os

import numpy as np
import pyarrow.parquet
import pytest
from bank_values import KEY, features, open_bank, put, split

from molo_jax.bank import exporting
from molo_jax.bank.exporting import ExportedClips, array_names, export_npz, export_parquet, plain
from molo_jax.data.lists.splits import Split
from molo_jax.errors import MoloError
from molo_jax.methods.molo_outputs import Tokens
from molo_jax.prediction.trees import describe

# A byte that is no text, as Python hands it on; a tab and a line separator; and another script.
NAMES = {4: ["a/x\udcff", "a/2\u2028\u00e9", "a/\U0001f3c0"], 9: ["b/<b>", "b/2"]}
ROWS = [0, 1, 3, 4, 5, 7, 9]


@pytest.fixture
def clips(tmp_path):
    bank = open_bank(tmp_path / "bank")
    with bank.writing(2):
        put(bank, ROWS)
        bank.note_bad({(0, 2): "broken"})
    return ExportedClips.of(bank, "folder", split(NAMES), 2)


@pytest.fixture(params=[1, 2**20], ids=["clip by clip", "at once"])
def _blocks(request, monkeypatch):
    monkeypatch.setattr(exporting, "_BLOCK_BYTES", request.param)


VIDEOS = ["a/x\\xff", "a/2\u2028\u00e9", "b/<b>", "b/2", "a/x\\xff", "a/\U0001f3c0", "b/2"]
COLUMNS = {
    "class": ["a"] * 2 + ["b"] * 2 + ["a"] * 2 + ["b"],
    "class_id": [4, 4, 9, 9, 4, 4, 9],
    "video": VIDEOS,
    "draw": [0, 0, 0, 0, 1, 1, 1],
}


@pytest.mark.usefixtures("_blocks")
def test_numpy_reads_all_clips_without_pickle(clips, tmp_path):
    path = tmp_path / "features.npz"
    export_npz(path, clips)
    with np.load(path, allow_pickle=False) as found:
        for name, wanted in COLUMNS.items():
            assert found[name].tolist() == wanted, name
        assert (str(found["dataset"]), str(found["split"])) == ("folder", "test")
        assert json.loads(str(found["description"])) == {"about": {"step": 7}, "key": KEY}
        wanted = features(ROWS)
        np.testing.assert_array_equal(found["features_tokens"], wanted["tokens"])
        np.testing.assert_array_equal(found["features_pair_0"], wanted["pair"][0])
        assert found["features_pair_0"].dtype == np.int16
        assert len(found.files) == 9


@pytest.mark.usefixtures("_blocks")
def test_a_table_has_a_row_for_each_clip_and_the_shape_in_its_columns(clips, tmp_path):
    path = tmp_path / "features.parquet"
    export_parquet(path, clips)
    file = pyarrow.parquet.ParquetFile(path)
    assert file.num_row_groups == (len(ROWS) if exporting._BLOCK_BYTES == 1 else 1)
    table = file.read()
    assert table["dataset"].to_pylist() == ["folder"] * len(ROWS)
    assert table["split"].to_pylist() == ["test"] * len(ROWS)
    for name, wanted in COLUMNS.items():
        assert table[name].to_pylist() == wanted, name
    shape = json.loads(table.schema.field("features_tokens").metadata[b"shape"])
    assert shape == [2, 4]
    tokens = np.stack(table["features_tokens"].to_numpy()).reshape(-1, *shape)
    np.testing.assert_array_equal(tokens, features(ROWS)["tokens"])
    assert tokens.dtype == np.float32
    assert table["features_pair_0"].to_pylist() == [row + 7 for row in ROWS]
    description = json.loads(table.schema.metadata[b"description"])
    assert description["key"]["method"] == "molo"


def test_fewer_draws_than_there_are_can_be_exported(clips):
    one = ExportedClips.of(clips.bank, "folder", clips.split, 1)
    assert one.rows.tolist() == [0, 1, 3, 4]


def test_nothing_to_export_is_an_error(tmp_path):
    with pytest.raises(MoloError, match="has no features that could be exported"):
        ExportedClips.of(open_bank(tmp_path / "bank"), "folder", split(), 1)


@pytest.mark.parametrize("name", ["features.npz", "features.parquet"])
def test_on_a_full_disk_the_earlier_file_stays(clips, tmp_path, monkeypatch, name):
    path = tmp_path / name
    path.write_text("earlier")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(ExportedClips, "blocks", lambda self: (_ for _ in ()).throw(full))
    with pytest.raises(MoloError, match=rf"{name} cannot be written: No space left on device; ma"):
        (export_npz if name.endswith("z") else export_parquet)(path, clips)
    assert path.read_text() == "earlier"
    assert {entry.name for entry in tmp_path.iterdir()} == {"bank", name}


def test_arrays_are_named_by_their_parts():
    array = np.zeros((0, 2), np.float32)
    assert array_names(describe(array)[0]) == ["features"]
    assert array_names(describe((array, [array, None, array]))[0]) == [
        "features_0",
        "features_1_0",
        "features_1_2",
    ]
    tokens = describe(Tokens(array, array))[0]
    assert array_names(tokens) == ["features_appearance", "features_motion"]


def test_a_name_becomes_text_that_every_program_reads():
    assert plain("caf\u00e9 \udce9") == "caf\u00e9 \\xe9"
    assert Split.of("a", "b", []).class_sizes == ()

import csv
import errno
import os

import numpy as np
import pytest
from bank_values import features, open_bank, put, split
from PIL import Image

from molo_jax.bank import projector
from molo_jax.bank.exporting import ExportedClips
from molo_jax.bank.projector import check_projector_folder, chosen_rows, export_projector, one_cell
from molo_jax.errors import MoloError

NAMES = {4: ["a\tx/1", "a\tx/2\u2028", "a\tx/3\r"], 9: ["b/<b>", "b/2\udcff"]}
FILES = {"projector_config.pbtxt", "tensors.tsv", "metadata.tsv", "sprite.png"}


@pytest.fixture
def clips(tmp_path):
    bank = open_bank(tmp_path / "bank")
    with bank.writing(2):
        put(bank, range(10))
    return ExportedClips.of(bank, 'fol"der', split(NAMES), 2)


def read_clip(*place: int):
    """Frames of one color, the middle one of another that says which clip it is."""
    if place == (1, 0, 0):
        return None
    frames = np.full((5, 8, 8, 3), 99, np.uint8)
    frames[2] = color(*place)
    return frames


def color(*place: int) -> list[int]:
    return [50 + 40 * number for number in place]


def table(path) -> list[list[str]]:
    text = path.read_text(encoding="utf-8")
    return list(csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def test_a_point_is_the_mean_of_the_tokens_of_the_first_array(clips, tmp_path):
    bank = clips.bank
    tokens = np.arange(10 * 2 * 4, dtype=np.float32).reshape(10, 2, 4) / 3
    with bank.writing(2):
        bank.put(np.arange(10), features(range(10)) | {"tokens": tokens})
    assert export_projector(tmp_path / "p", clips, read_clip, 2) == (10, 10)
    points = np.loadtxt(tmp_path / "p/tensors.tsv", delimiter="\t")
    np.testing.assert_allclose(points, tokens.mean(axis=1), rtol=1e-5)


def test_names_cannot_break_the_table(clips, tmp_path):
    export_projector(tmp_path / "p", clips, read_clip, 1)
    head, *rows = table(tmp_path / "p/metadata.tsv")
    assert head == ["class", "class_id", "video", "draw"]
    wanted = ["a\\tx/1", "a\\tx/2\\u2028", "a\\tx/3\\r", "b/<b>", "b/2\\xff"]
    assert [row[2] for row in rows] == wanted * 2
    assert [row[0] for row in rows] == (["a\\tx"] * 3 + ["b"] * 2) * 2
    assert [row[1] for row in rows] == (["4"] * 3 + ["9"] * 2) * 2
    assert [row[3] for row in rows] == ["0"] * 5 + ["1"] * 5
    assert one_cell("a\nb\\") == "a\\nb\\"


def test_the_sprite_has_the_middle_frame_of_each_clip_row_by_row(clips, tmp_path):
    export_projector(tmp_path / "p", clips, read_clip, 3)
    sprite = np.asarray(Image.open(tmp_path / "p/sprite.png"))
    # Ten pictures in a square of four times four.
    assert sprite.shape == (4 * 64, 4 * 64, 3)
    for number in range(10):
        place = tuple(int(part) for part in clips.bank.places(number))
        y, x = number // 4 * 64 + 32, number % 4 * 64 + 32
        wanted = [128] * 3 if place == (1, 0, 0) else color(*place)
        assert sprite[y, x].tolist() == wanted, place
    assert sprite[-1, -1].tolist() == [255] * 3
    assert (tmp_path / "p/projector_config.pbtxt").read_text() == (
        'embeddings {\n  tensor_name: "fol-der test"\n  tensor_path: "tensors.tsv"\n'
        '  metadata_path: "metadata.tsv"\n  sprite {\n    image_path: "sprite.png"\n'
        "    single_image_dim: 64\n    single_image_dim: 64\n  }\n}\n"
    )


def test_so_many_points_are_taken_as_a_browser_can_show_evenly_spread(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(projector, "MOST_POINTS", 4)
    assert export_projector(tmp_path / "p", clips, read_clip, 1) == (4, 10)
    assert [row[3] for row in table(tmp_path / "p/metadata.tsv")[1:]] == ["0", "0", "1", "1"]
    assert len(np.loadtxt(tmp_path / "p/tensors.tsv")) == 4
    assert Image.open(tmp_path / "p/sprite.png").size == (128, 128)


def test_wide_features_have_fewer_points():
    rows = np.arange(50_000)
    assert len(chosen_rows(rows, 512)) == 10_000
    chosen = chosen_rows(rows, 2048)
    assert len(chosen) == 4882
    assert (chosen[0], chosen[-1]) == (5, 49994)
    assert set(np.diff(chosen)) == {10, 11}
    assert chosen_rows(rows[:4882], 2048).tolist() == list(range(4882))


def test_the_sprite_of_many_points_stays_within_what_browsers_show():
    across = 100
    assert across * min(projector._PICTURE_SIDE, projector._SPRITE_SIDE // across) <= 8192


def test_an_earlier_projector_is_replaced_and_nothing_else(clips, tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    for _ in range(2):
        export_projector(folder, clips, read_clip, 1)
        assert {entry.name for entry in folder.iterdir()} == FILES
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(MoloError, match=r"holds other things than a projector \(mine\.txt\)"):
        export_projector(folder, clips, read_clip, 1)
    assert (folder / "mine.txt").read_text() == "mine"
    (tmp_path / "file").write_text("x")
    with pytest.raises(MoloError, match="is no folder of a projector"):
        check_projector_folder(tmp_path / "file")


def test_on_a_full_disk_the_earlier_folder_stays_and_nothing_beside_it(
    clips, tmp_path, monkeypatch
):
    folder = tmp_path / "p"
    export_projector(folder, clips, read_clip, 1)
    before = (folder / "tensors.tsv").read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(projector, "write_sprite", full)
    with pytest.raises(MoloError, match="p cannot be written: No space left on device"):
        export_projector(folder, clips, read_clip, 1)
    assert (folder / "tensors.tsv").read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"bank", "p"}

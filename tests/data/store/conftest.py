"""What the tests of the store share: videos that are prepared once."""

import shutil

import pytest
from preparing import prepare_tree

from molo_jax.data.store.records import prepared_folder


@pytest.fixture(scope="package")
def out(video_tree, tmp_path_factory):
    """The prepared videos of the tree."""
    out = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        prepare_tree(video_tree, out, patch)
    return out


@pytest.fixture
def copy(out, tmp_path):
    """A copy that may be damaged, with the path of its record file."""
    shutil.copytree(out, tmp_path / "copy")
    (records,) = prepared_folder(tmp_path / "copy", "folder").glob("*array_record*-of-00001")
    return tmp_path / "copy", records

"""Features on disk: found by content, whatever happens to the folder."""

import dataclasses
import logging
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from archives import clip

from molo_jax.methods.molo_outputs import Tokens
from molo_jax.prediction import cache as cache_module
from molo_jax.prediction.cache import FeatureCache

NETWORK, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path, NETWORK)


def kept(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_clip_is_found_by_its_content_with_all_that_was_kept(cache):
    for given in (clip("a", 1), clip("b", 2, seconds=False)):
        assert cache.get(given.digest) is None
        cache.put(given)
        found = cache.get(given.digest)
        assert (found.name, found.digest) == (given.digest, given.digest)
        assert isinstance(found.features, Tokens)
        jax.tree.map(np.testing.assert_array_equal, found.features, given.features)
        # Exactly, so that a second call shows what the first one has shown.
        np.testing.assert_array_equal(found.thumbnails, given.thumbnails)
        np.testing.assert_array_equal(found.numbers, given.numbers)
        assert (found.seconds is None) == (given.seconds is None)
    assert found.numbers.dtype == np.int64


def test_another_network_and_another_folder_know_nothing_of_it(cache, tmp_path):
    given = clip("a", 1)
    cache.put(given)
    assert FeatureCache(tmp_path, OTHER).get(given.digest) is None
    assert FeatureCache(tmp_path / "x", NETWORK).get(given.digest) is None
    assert FeatureCache(tmp_path, NETWORK).get(given.digest) is not None


def test_by_default_it_is_in_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    given = clip("a", 1)
    FeatureCache(None, NETWORK).put(given)
    path = tmp_path / "molo_jax" / "features" / NETWORK / f"{given.digest}.features"
    assert kept(tmp_path) == [path]
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("digest", ["", "../../x", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_what_is_no_digest_becomes_no_path(cache, tmp_path, digest):
    with pytest.raises(ValueError, match="is no SHA-256"):
        cache.get(digest)
    with pytest.raises(ValueError, match="is no SHA-256"):
        cache.put(dataclasses.replace(clip("a", 1), digest=digest))
    with pytest.raises(ValueError, match="is no SHA-256"):
        FeatureCache(tmp_path, digest)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut off", "flipped", "empty", "text", "of another clip"])
def test_a_damaged_file_counts_as_absent_and_is_written_anew(cache, tmp_path, caplog, damage):
    given = clip("a", 1)
    cache.put(given)
    [path] = kept(tmp_path)
    whole = path.read_bytes()
    middle = len(whole) // 2
    if damage == "of another clip":
        other = clip("b", 2)
        cache.put(other)
        next(p for p in kept(tmp_path) if p != path).replace(path)
    else:
        path.write_bytes(
            {
                "cut off": whole[:middle],
                "flipped": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
                "empty": b"",
                "text": b"hello",
            }[damage]
        )
    with caplog.at_level(logging.WARNING):
        assert cache.get(given.digest) is None
    assert f"{path} is left out: " in caplog.text
    cache.put(given)
    assert path.read_bytes() == whole
    assert cache.get(given.digest) is not None


def test_features_that_are_not_finite_and_pictures_that_do_not_fit_count_as_absent(cache, tmp_path):
    from molo_jax.prediction.container import read_container, write_container

    given = clip("a", 1)
    cache.put(given)
    [path] = kept(tmp_path)
    header, arrays = read_container(path, cache_module.FORMAT, cache_module.VERSION)
    for name, value in [
        ("features_0", np.full((4, 5), np.nan, np.float32)),
        ("thumbnails", np.zeros((3, 4, 5), np.uint8)),
        ("numbers", np.zeros(4, np.int64)),
        ("seconds", np.zeros(4)),
        ("more", np.zeros(4)),
    ]:
        write_container(path, cache_module.FORMAT, 1, header, arrays | {name: value})
        assert cache.get(given.digest) is None, name
    write_container(path, cache_module.FORMAT, 2, header, arrays)
    assert cache.get(given.digest) is None
    write_container(path, cache_module.FORMAT, 1, header, arrays)
    assert cache.get(given.digest) is not None


def test_the_clips_that_were_not_used_for_the_longest_time_are_removed(tmp_path):
    clips = [clip(str(number), number) for number in range(6)]
    FeatureCache(tmp_path, OTHER).put(clips[0])
    [first] = kept(tmp_path)
    size = first.stat().st_size
    # An hour ago, of another network.
    os.utime(first, (time.time() - 3600,) * 2)
    cache = FeatureCache(tmp_path, NETWORK, limit=int(4.5 * size))
    for age, each in enumerate(clips[1:4]):
        cache.put(each)
        path = tmp_path / NETWORK / f"{each.digest}.features"
        os.utime(path, (time.time() - 1000 + age,) * 2)
    assert len(kept(tmp_path)) == 4
    # Reading makes the oldest of this network the newest.
    assert cache.get(clips[1].digest) is not None
    cache.put(clips[4])
    names = {path.stem for path in kept(tmp_path)}
    assert first not in kept(tmp_path)
    assert names == {each.digest for each in clips[1:5]}
    cache.put(clips[5])
    names = {path.stem for path in kept(tmp_path)}
    assert names == {clips[n].digest for n in (1, 3, 4, 5)}
    assert sum(path.stat().st_size for path in kept(tmp_path)) <= 4.5 * size


def test_what_killed_processes_left_is_removed_and_what_others_write_now_is_not(cache, tmp_path):
    folder = tmp_path / NETWORK
    folder.mkdir()
    old, new, foreign = folder / ".x.features.1.tmp", folder / ".y.tmp", tmp_path / "notes.txt"
    for path in (old, new, foreign):
        path.write_text("x")
    os.utime(old, (time.time() - 7200,) * 2)
    cache.put(clip("a", 1))
    assert not old.exists()
    assert new.exists()
    assert foreign.exists()


@pytest.mark.parametrize("obstacle", ["file", "disk"])
def test_a_folder_that_cannot_be_written_gives_one_warning(tmp_path, caplog, monkeypatch, obstacle):
    folder = tmp_path / "cache"
    if obstacle == "file":
        folder.write_text("a file")
    else:

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(cache_module, "write_container", full)
    cache = FeatureCache(folder, NETWORK)
    with caplog.at_level(logging.WARNING):
        cache.put(clip("a", 1))
        cache.put(clip("b", 2))
        assert cache.get(clip("a", 1).digest) is None
    [message] = caplog.messages
    assert message.startswith(f"features of clips are not kept: {folder / NETWORK} cannot be writ")
    assert [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")] == []


def test_several_threads_write_the_same_clip(cache, tmp_path, caplog):
    given = clip("a", 1)

    def write(_):
        for _ in range(40):
            cache.put(given)

    with ThreadPoolExecutor(4) as pool, caplog.at_level(logging.WARNING):
        list(pool.map(write, range(4)))
    assert caplog.messages == []
    assert len(kept(tmp_path)) == 1


_WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from archives import clip
from molo_jax.prediction.cache import FeatureCache
cache = FeatureCache(sys.argv[1], "a" * 64)
for turn in range(60):
    for seed in range(4):
        given = clip(str(seed), seed)
        cache.put(given)
        found = cache.get(given.digest)
        assert found is not None and (found.features.motion == given.features.motion).all()
"""


def test_several_processes_write_the_same_clips(tmp_path):
    tests = str(Path(__file__).parents[1])
    processes = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path), tests]) for _ in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert len(kept(tmp_path)) == 4

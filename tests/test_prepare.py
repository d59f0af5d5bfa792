import subprocess
import sys


def test_prepare_writes_videos_and_the_three_split_lists(tmp_path):
    counts = [f"--{split}_videos=1" for split in ("train", "val", "test")]
    arguments = ["molo_jax.prepare", "--dataset=synthetic", f"--out={tmp_path}", "--seed=3"]
    command = [sys.executable, "-m", *arguments, *counts]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for split, classes in (("train", 64), ("val", 12), ("test", 24)):
        lines = (tmp_path / "splits" / f"{split}_few_shot.txt").read_text().splitlines()
        assert len(lines) == classes
        for line in lines:
            assert (tmp_path / "videos" / line.partition("//")[2]).stat().st_size > 500

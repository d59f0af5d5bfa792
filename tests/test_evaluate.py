import pytest

from molo_jax import evaluate
from molo_jax.config import base_config
from molo_jax.errors import MoloError
from molo_jax.training.evaluation import Score


def test_the_table_has_a_row_for_each_variant_and_a_column_for_each_number_of_shots():
    config = base_config()
    config.dataset.name, config.eval.episodes = "synthetic", 1000
    results = {
        ("trained", 1): Score(0.6123, 0.0101, 1000, {}),
        ("trained", 5): Score(1.0, 0.0, 1000, {}),
        ("static", 1): Score(0.2, 0.0051, 1000, {}),
        ("static", 5): Score(0.21, 0.005, 1000, {}),
    }
    assert evaluate.format_table(config, results, step=70).splitlines() == [
        "",
        "synthetic, test split: 5-way accuracy in % with 95 % intervals over 1000 episodes,"
        " network of step 70",
        "-" * 52,
        "                                 1-shot       5-shot",
        "-" * 52,
        "trained                      61.2 ± 1.0  100.0 ± 0.0",
        "trained, one repeated frame  20.0 ± 0.5   21.0 ± 0.5",
        "-" * 52,
    ]


def test_evaluation_data_are_checked_for_every_number_of_shots(motion_data, tmp_path):
    config = base_config()
    config.data.source = "videos"
    config.data.root = str(motion_data / "videos")
    config.data.split_dir = str(motion_data / "splits")
    config.eval.n_way = 3
    config.eval.shots = (1, 3)
    evaluate.check_data(config, tmp_path, trains=True)
    config.eval.shots = (1, 5)
    with pytest.raises(MoloError, match="5-shot with 1 query needs 6"):
        evaluate.check_data(config, tmp_path, trains=True)
    config.eval.n_way, config.eval.shots = 4, (1,)
    with pytest.raises(MoloError, match="3 classes"):
        evaluate.check_data(config, tmp_path, trains=False)

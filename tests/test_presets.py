"""The papers' experiments: each benchmark has two configurations with the published values."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The paper's settings: seed, weights of classification, contrast and reconstruction, learning rate,
# start of its warm-up, P, boundaries, factors, iterations, positional A and B.
_TABLE = {
    "ssv2": "8 | .8 .05 .1 | 1e-4 2e-5 | 6000 | 0 6 9 | 1 .1 .01 | 50000 | 10 1",
    "ssv2_small": "18 | .15 .05 .05 | 1e-4 2e-5 | 1500 | 0 4 8 | 1 .1 .01 | 20000 | 10 1",
    "kinetics100": "18 | .1 .05 .1 | 2e-5 5e-6 | 350 | 0 4 6 | 1 .1 .01 | 5000 | 2048 .02",
    "ucf101": "18 | .6 .05 .05 | 5e-5 1e-5 | 2000 | 0 3 6 | 1 .1 .01 | 6000 | 10 1",
    "hmdb51": "18 | .4 .05 .05 | 5e-5 1e-5 | 500 | 0 3 5 7 | 1 .5 .1 .01 | 2000 | 10 1",
}


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("name", _TABLE)
def test_a_benchmark_has_the_values_of_the_papers_setting(name, shots):
    file = ROOT / f"configs/{name}_{shots}shot.py"
    config = runpy.run_path(str(file))["get_config"]()
    method, optimizer, train, model = config.method, config.optimizer, config.train, config.model
    found = [
        [config.seed],
        [method.classification, method.contrast, method.reconstruction / 4],
        [optimizer.base_lr, optimizer.warmup_start_lr],
        [optimizer.steps_iter],
        list(optimizer.boundaries),
        list(optimizer.factors),
        # 4 iterations make an optimizer step.
        [train.steps * 4],
        [method.positional_a, method.positional_b],
    ]
    expected = [[float(n) for n in row.split()] for row in _TABLE[name].split(" | ")]
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, rel=1e-12)
    sampling = "window" if name == "kinetics100" else "segments"
    assert (config.data.sampling, config.dataset.name) == (sampling, name)
    # Trained on 1-shot episodes in both.
    assert (train.n_way, train.n_shot, train.n_query, train.episodes_per_step) == (5, 1, 6, 16)
    assert (config.eval.shots, config.eval.n_way, config.eval.n_query) == ((shots,), 5, 1)
    assert (config.eval.episodes, config.eval.split) == (10000, "test")
    assert (optimizer.schedule, optimizer.weight_decay) == ("official", 1e-3)
    assert (optimizer.b1, optimizer.b2, optimizer.eps) == (0.9, 0.999, 1e-8)
    assert (model.backbone, model.pretrained, config.init_from) == ("resnet50", "imagenet", "")
    assert (config.data.num_frames, config.data.crop, config.data.resize) == (8, 224, 256)
    assert (config.data.split_dir, config.optimizer.accumulation) == ("", 4)


# HyRSM's: weight of classification, positional A and B, learning rate, start of its warm-up, P,
# boundaries, factors, iterations, accumulation.
_HYRSM = {
    "ssv2": ".6 | 10 1 | 1e-4 2e-5 | 3000 | 0 6 9 | 1 .1 .01 | 40000 | 4",
    "ssv2_small": ".15 | 10 1 | 1e-4 2e-5 | 1500 | 0 4 8 | 1 .1 .01 | 20000 | 4",
    "kinetics100": ".4 | 2048 .01 | 2.2e-5 5e-6 | 100 | 0 4 6 9 | 1 .5 .1 .05 | 1200 | 4",
    "ucf101": ".15 | 10 1 | 5e-5 1e-5 | 700 | 0 3 5 7 | 1 .5 .1 .01 | 2500 | 4",
    "hmdb51": ".15 | 10 1 | 5e-5 1e-5 | 300 | 0 2 3 7 | 1 .5 .1 .01 | 2000 | 2",
}
# HyRSM++'s: weight of classification, positional A and B, window, weight of the temporal coherence,
# balance, weight of pushing apart, P, iterations; the rest is as for HyRSM.
_HYRSM_PP = {
    "ssv2": ".6 | 10 1 | 1 .3 51 10 | 3000 40000",
    "ssv2_small": ".2 | 10 1 | 3 .3 23 10 | 1500 20000",
    "kinetics100": ".1 | 10 1 | 3 .1 23 10 | 100 1500",
    "ucf101": ".6 | 10 1 | 3 .1 23 10 | 700 2500",
    "hmdb51": ".15 | 50 1 | 1 .2 51 20 | 300 2000",
}


def _of_a_method(name, shots, method):
    return runpy.run_path(str(ROOT / f"configs/{name}_{shots}shot.py"))["get_config"](method)


def _assert_rows(found, table):
    expected = [[float(n) for n in row.split()] for row in table.split(" | ")]
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("name", _HYRSM)
def test_a_benchmark_has_the_values_of_hyrsms_setting(name, shots):
    config = _of_a_method(name, shots, "hyrsm")
    method, optimizer, train = config.method, config.optimizer, config.train
    found = [
        [method.classification],
        [method.positional_a, method.positional_b],
        [optimizer.base_lr, optimizer.warmup_start_lr],
        [optimizer.steps_iter],
        list(optimizer.boundaries),
        list(optimizer.factors),
        [train.steps * optimizer.accumulation],
        [optimizer.accumulation],
    ]
    _assert_rows(found, _HYRSM[name])
    # Trained with as many shots as tested, as prototypes.
    queries = 7 if shots == 1 else 3
    assert (train.n_way, train.n_shot, train.n_query) == (5, shots, queries)
    assert (train.episodes_per_step, method.prototypes_first) == (16, True)
    assert (optimizer.name, optimizer.schedule, optimizer.weight_decay) == (
        *("adam", "official", 1e-3),
    )
    assert (config.eval.shots, config.eval.n_query, config.eval.episodes) == ((shots,), 1, 10000)
    dropouts = "position", "attention", "relation", "relation_weights"
    assert [method[f"dropout_{place}"] for place in dropouts] == [0.1, 0.2, 0.05, 0.1]


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("name", _HYRSM_PP)
def test_a_benchmark_has_the_values_of_hyrsm_pps_setting_and_the_rest_of_hyrsms(name, shots):
    config, other = (_of_a_method(name, shots, each) for each in ("hyrsm_pp", "hyrsm"))
    method, optimizer = config.method, config.optimizer
    found = [
        [method.classification],
        [method.positional_a, method.positional_b],
        [method.window, method.temporal, method.balance, method.apart_weight],
        [optimizer.steps_iter, config.train.steps * optimizer.accumulation],
    ]
    _assert_rows(found, _HYRSM_PP[name])
    own = ("window", "temporal", "balance", "apart_weight", "name")
    own += ("classification", "positional_a", "positional_b")
    both = [{k: v for k, v in each.method.items() if k not in own} for each in (config, other)]
    assert both[0] == both[1]
    other.train.steps = config.train.steps
    for section in ("data", "train", "optimizer", "eval", "augment", "model"):
        assert config[section] == other[section]
    assert config.seed == other.seed == (8 if name == "ssv2" else 18)


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("name", _TABLE)
def test_a_benchmarks_docstring_has_its_accuracy_and_its_command(name, shots):
    text = (ROOT / f"configs/{name}_{shots}shot.py").read_text()
    assert f"5-way {shots}-shot" in text
    assert re.search(r"weights: \d\d\.\d %", text)
    command = f"--config=configs/{name}_{shots}shot.py --workdir=runs/{name}_{shots}shot\n"
    assert f"    python -m molo_jax.main {command}" in text
    config = runpy.run_path(str(ROOT / f"configs/{name}_{shots}shot.py"))["get_config"]()
    assert (config.data.source, config.data.prepared) == ("prepared", "data/prepared")
    prepare = f"--dataset={name} --videos=DIR --out={config.data.prepared}\n"
    assert f"    python -m molo_jax.prepare {prepare}" in text

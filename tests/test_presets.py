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

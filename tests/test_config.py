import ast
import dataclasses
import math
import re
import runpy
from pathlib import Path

import pytest

from molo_jax.config import (
    WEIGHT_FILES,
    base_config,
    config_keys,
    validate,
    value_of,
)
from molo_jax.data.augment import AugmentConfig
from molo_jax.errors import UsageError
from molo_jax.weights import torch_files

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(ROOT.glob("configs/*.py"))
NOT_READERS = ("config.py", "presets.py")


def attribute_chains(source):
    """Returns the last two names of every attribute access: `a.b.c.d` gives `c.d`, `b.c`, `a.b`."""
    chains = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = getattr(owner, "id", getattr(owner, "attr", ""))
            chains.add(f"{name}.{node.attr}")
    return chains


def keys_read_by_the_package():
    chains = set()
    for path in (ROOT / "molo_jax").rglob("*.py"):
        if path.name not in NOT_READERS:
            chains |= attribute_chains(path.read_text())
    return chains | {chain.removeprefix("config.") for chain in chains}


def test_every_key_of_the_configuration_is_read_by_the_package():
    unread = set(config_keys(base_config())) - keys_read_by_the_package()
    # One record takes this section as a whole.
    unread -= {f"augment.{field.name}" for field in dataclasses.fields(AugmentConfig)}
    # A method's own settings are read by the method: as `settings.NAME`, where `config` is none.
    own = {f"settings.{name.removeprefix('method.')}" for name in unread}
    assert not own - keys_read_by_the_package()


def test_a_key_that_nobody_reads_would_be_found():
    assert "train.stepss" not in keys_read_by_the_package()
    assert attribute_chains("x = self._config.train.steps") >= {"train.steps", "_config.train"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid_and_locked(path):
    config = runpy.run_path(str(path))["get_config"]()
    validate(config)
    assert config_keys(config) == config_keys(base_config())
    with pytest.raises(AttributeError):
        config.train.stepss = 1


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


def test_the_files_that_may_hold_weights_are_those_that_can_be_read():
    assert WEIGHT_FILES == torch_files.SUFFIXES


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.crop", 40, "config.data.crop is 40; it must be divisible by 32.*32 or 64"),
        ("data.crop", 16, "config.data.crop is 16; it must be divisible by 32.*for example 32$"),
        ("data.crop", 0, "config.data.crop is 0; it must be divisible by 32"),
        ("data.crop", 288, "config.data.resize is 256; it must be at least data.crop, 288"),
        ("data.num_frames", 1, "config.data.num_frames is 1; MoLo needs at least 2"),
        ("data.num_frames", 20, "config.data.num_frames is 20; MoLo takes at most 19"),
        ("data.source", "video", "is 'video'; choose one of prepared, videos"),
        ("data.sampling", "uniform", "is 'uniform'; choose one of segments, window"),
        ("data.on_bad_video", "ignore", "is 'ignore'; choose one of fail, skip"),
        ("model.backbone", "resnet101", "choose one of resnet18, resnet34, resnet50"),
        ("model.pretrained", "Imagenet", "it must be imagenet, a path that ends in .pth, .pyth, "),
        ("init_new_classifier", True, "it is for weights from --config.init_from, which is empty"),
        ("method.positional_a", 0.0, "config.method.positional_a is 0.0; it must be above 0"),
        ("method.dropout_attention", 1.0, "it must be at least 0 and below 1"),
        ("augment.flip", 1.5, "config.augment.flip is 1.5; it must be between 0 and 1"),
        ("augment.hue", 0.6, "config.augment.hue is 0.6; it must be between 0 and 0.5"),
        ("train.n_query", 0, "config.train.n_query is 0; it must be at least 1"),
        ("train.steps", 0, "config.train.steps is 0; it must be at least 1"),
        ("train.eval_every", -1, "config.train.eval_every is -1; it must be at least 0"),
        ("optimizer.base_lr", 0.0, "config.optimizer.base_lr is 0.0; it must be above 0"),
        ("optimizer.base_lr", math.nan, "config.optimizer.base_lr is nan; it must be above 0"),
        ("optimizer.schedule", "step", "choose one of official, cosine"),
        ("optimizer.boundaries", (1, 6), "ascending whole numbers, the first of them 0"),
        ("optimizer.boundaries", (0, 6, 6), "ascending whole numbers"),
        ("optimizer.factors", (1.0,), "it needs one value for each of the 3"),
        ("eval.split", "dev", "choose one of train, val, test"),
        ("eval.shots", (), "it must hold whole numbers of at least 1"),
        ("eval.shots", (1, 0), "it must hold whole numbers of at least 1"),
        ("eval.shots", (5, 5), "each number may occur once"),
        ("eval.controls", ("random",), "it may hold untrained and static"),
        ("eval.frame_draw", "clip", "choose one of episode, video"),
        ("eval.on_trained_classes", "skip", "is 'skip'; choose one of refuse, warn"),
        ("eval.episodes", 1, "config.eval.episodes is 1; it must be at least 2"),
        ("seed", -1, "config.seed is -1; it must be at least 0"),
        ("seed", 2**32, "seed is 4294967296; it must be 0 to 4,294,967,295: random keys are made"),
        ("train.steps", 10**12, "train.steps is 1000000000000; it must be 1 to 2,147,483,647"),
        ("train.steps", 2**28, "with train.episodes_per_step=16 it must be at most 134,217,727"),
        ("train.episodes_per_step", 10**9, "episodes_per_step is 1000000000; the frames of 3 batc"),
        ("train.episodes_per_step", 2**31, "it must be 1 to 2,147,483,647"),
        ("train.n_query", 10**9, "train.n_query is 1000000000; it must be 1 to 10,000: no data"),
        ("train.val_episodes", 10**9, "it must be 2 to 10,000,000: its 95 % interval is below"),
        ("train.log_every", 2**31, "it must be 1 to 2,147,483,647: it is kept in 32 bits"),
        (
            "optimizer.accumulation",
            2**20,
            "with optimizer.accumulation=1048576 it must be at most 1,023",
        ),
        ("method.contrast", math.inf, "config.method.contrast is inf; it must be finite"),
        (
            "method.classification",
            1e39,
            "classification is 1e\\+39; it must be finite, and below",
        ),
        ("method.motion_weight", math.nan, "motion_weight is nan; it must be at least 0"),
        ("method.positional_a", 1e-40, "it must be above 0 and finite, and at least 1.2e-38"),
        ("data.resize", 10**6, "resize is 1000000; it must be at most 4,096: a larger square"),
        ("data.workers", 10**6, "workers is 1000000; it must be 0 to 1,024: each is a thread"),
        ("data.prefetch", 10**9, "it must be 1 to 1,024: each batch takes memory"),
        ("optimizer.b2", 1 - 1e-9, "below 1, also in 32 bits"),
        ("optimizer.eps", 1e-60, "optimizer.eps is 1e-60; it must be above 0 and finite"),
        (
            "optimizer.factors",
            (1.0, math.inf, 0.1),
            r"is \(1.0, inf, 0.1\); it must be finite",
        ),
        ("optimizer.boundaries", (0, 6, 10**9), "none may be above 357,913: the schedule counts"),
        ("optimizer.steps_iter", 10**9, "it must be 1 to 10,000,000: the rate of each"),
        ("optimizer.warmup_steps", 10**12, "it must be 0 to 2,147,483,647"),
        ("eval.shots", (1, 10**9), "each must be at most 10,000"),
        ("eval.episodes", 10**12, "eval.episodes is 1000000000000; it must be 2 to 10,000,000"),
        ("eval.clip_batch", 10**9, "eval.clip_batch is 1000000000; the frames of 3 batches"),
        ("eval.cache_mib", 10**12, "it must be 1 to 2,147,483,647"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_what_it_should_be(key, value, message):
    config = base_config()
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(UsageError, match=message):
        validate(config)


def test_every_number_of_the_configuration_has_an_upper_limit():
    config = base_config()
    for name in config_keys(config):
        value = value_of(config, name)
        is_number = type(value) in (int, float) or (isinstance(value, tuple) and value)
        if not is_number:
            continue
        huge = 10**15 if type(value) is int else 1e50
        huge = (*value[:-1], type(value[-1])(10**15 * 1e40)) if isinstance(value, tuple) else huge
        changed = base_config()
        with changed.ignore_type():
            changed.update_from_flattened_dict({name: huge})
        with pytest.raises(UsageError, match=f"config.{name} is "):
            validate(changed)


def test_frames_that_no_memory_holds_are_counted_in_the_message():
    config = base_config()
    config.train.episodes_per_step = 10**6
    # 3 batches of 10^6 episodes, each of 5 (1 + 6) clips of 8 frames of 256 x 256 x 3 bytes.
    gigabytes = 3 * 10**6 * 35 * 8 * 256 * 256 * 3 / 2**30
    with pytest.raises(UsageError, match=f"35,000,000 clips would take {gigabytes:,.1f} GiB, and"):
        validate(config)

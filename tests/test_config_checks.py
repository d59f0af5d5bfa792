import math

import pytest

from molo_jax import config_checks
from molo_jax.config import base_config, config_keys, value_of
from molo_jax.config_checks import validate
from molo_jax.errors import UsageError


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
        ("train.profile_steps", "3", "'3'; it must be FIRST:LAST, two numbers of steps"),
        ("train.profile_steps", "0:4", "'0:4'; it must be FIRST:LAST"),
        ("train.profile_steps", "5:4", "'5:4'; it must be FIRST:LAST"),
        ("train.profile_steps", "4:12501", "<= train.steps, 12500, or empty"),
        ("train.steps", 0, "config.train.steps is 0; it must be at least 1"),
        ("train.eval_every", -1, "config.train.eval_every is -1; it must be at least 0"),
        ("optimizer.base_lr", 0.0, "config.optimizer.base_lr is 0.0; it must be above 0"),
        ("optimizer.base_lr", math.nan, "config.optimizer.base_lr is nan; it must be above 0"),
        ("optimizer.schedule", "step", "choose one of official, cosine"),
        ("optimizer.boundaries", (1, 6), "ascending whole numbers, the first of them 0"),
        ("optimizer.boundaries", (0, 6, 6), "ascending whole numbers"),
        ("optimizer.factors", (1.0,), "it needs one value for each of the 3"),
        ("train.precision", "fp16", "is 'fp16'; choose one of float32, tf32, bf16"),
        ("eval.precision", "", "config.eval.precision is ''; choose one of float32, tf32, bf16"),
        ("eval.split", "dev", "choose one of train, val, test"),
        ("eval.shots", (), "it must hold a number"),
        ("eval.ways", (5, 1), "it must hold whole numbers of at least 2"),
        ("eval.ways", (5, 5), "each number may occur once"),
        ("eval.draws", 0, "config.eval.draws is 0; it must be at least 1"),
        ("eval.draws", 2, "with frame_draw=episode frames are drawn anew in every episode; set 1"),
        ("eval.dataset", "ucf101", "config.eval.prepared is ''; it must be the place of the data"),
        ("eval.prepared", "x", "it is the place of the data set eval.dataset, which is empty"),
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


@pytest.mark.parametrize("answer", [ValueError("unrecognized configuration name"), OSError(22), -1])
def test_where_the_system_does_not_tell_its_memory_any_number_of_frames_is_allowed(
    answer, monkeypatch
):
    sysconf = config_checks.os.sysconf

    def without_memory(name):
        if name != "SC_PHYS_PAGES":
            return sysconf(name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(config_checks.os, "sysconf", without_memory)
    config = base_config()
    config.train.episodes_per_step, config.train.steps = 10**6, 1000
    validate(config)


def test_the_memory_of_this_machine_says_nothing_of_a_training_elsewhere():
    config = base_config()
    config.train.episodes_per_step, config.train.steps = 10**6, 1000
    validate(config, here=False)


def test_a_microbatch_that_does_not_divide_the_step_is_refused_with_both_numbers():
    config = base_config()
    config.train.episodes_per_step, config.train.microbatch = 16, 3
    message = "train.episodes_per_step is 16; it must be divisible by train.microbatch, 3$"
    with pytest.raises(UsageError, match=message):
        validate(config)

import contextlib
import functools
import re

import pytest
import torch

import molo_torch_ref
from molo_jax import training_cost as counting
from molo_jax.config import base_config
from molo_jax.engine.cost import cost
from molo_jax.training_cost import Device, format_cost, training_cost

CLASSES = 11
MEMORY = 2**31


@pytest.fixture(scope="module", autouse=True)
def _one_precision_and_remat():
    """Each further one takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "PRECISIONS", {"float32": contextlib.nullcontext})
        patch.setattr(counting, "REMATS", {"none": contextlib.nullcontext})
        yield


@pytest.fixture(scope="module")
def config():
    config = base_config("protonet")
    config.model.backbone = "resnet18"
    config.data.resize, config.data.crop, config.data.num_frames = 72, 64, 4
    config.train.n_way, config.train.n_shot, config.train.n_query = 3, 2, 1
    config.train.episodes_per_step, config.train.microbatch, config.train.steps = 12, 2, 100
    return config


@pytest.fixture(scope="module")
def found(config):
    return training_cost(config, CLASSES, Device(memory=MEMORY, rate=1e12))


def changed(config, **train):
    other = config.copy_and_resolve_references()
    other.train.update(train)
    return other


def test_the_parameters_are_those_of_the_reference(config):
    other = base_config("molo")
    for section in ("model", "data", "train"):
        other[section].update(config[section])
    found = training_cost(other, CLASSES, Device())
    with torch.device("meta"):
        model = molo_torch_ref.make_network("molo", num_classes=CLASSES, backbone="resnet18")
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    counted = found["parameters"]
    assert counted["total"] == sum(counted["modules"].values()) == sum(sizes.values())
    backbone = sum(n for name, n in sizes.items() if name.startswith("backbone."))
    assert counted["modules"]["backbone"] == backbone == 11_176_512
    assert counted["modules"]["classifier"] == 512 * CLASSES + CLASSES


def test_adam_keeps_two_numbers_for_each_parameter_and_plain_descent_none(config, found):
    size = 4 * found["parameters"]["total"]
    state = found["state_bytes"]
    assert state["parameters"] == size
    assert 2 * size <= state["optimizer"] <= 2 * size + 16
    # That of the running chunk, and the sum over those before.
    assert state["gradients"] == 2 * size
    other = changed(config, microbatch=12)
    other.optimizer.name = "sgd"
    state = training_cost(other, CLASSES, Device())["state_bytes"]
    assert state["optimizer"] <= 16
    assert state["gradients"] == size


def test_a_step_has_the_operations_and_the_pixels_of_its_episodes(found):
    flops = found["flops"]
    for way in ("forward", "backward"):
        assert flops["step"][way] == 12 * flops["episode"][way]
        assert 9 * flops["clip"][way] < flops["episode"][way] < 11 * flops["clip"][way]
    # 12 episodes of 9 clips of 4 frames of 72 x 72 pixels of 3 bytes.
    assert found["pixel_bytes"] == 12 * 9 * 4 * 72 * 72 * 3


def test_the_hours_are_those_of_all_steps_at_the_sustained_rate(found):
    operations = 100 * sum(found["flops"]["step"].values())
    assert found["training_hours"] == pytest.approx(operations / 1e12 / 3600)


def test_the_peak_holds_the_state_the_pixels_and_what_the_episodes_keep(config, found):
    alone = changed(config, microbatch=1)
    larger = changed(config, microbatch=1)
    larger.data.resize = 80
    counted = [training_cost(each, CLASSES, Device()) for each in (alone, larger)]
    one, fed, two = (each["peak_bytes"]["float32"]["none"] for each in (*counted, found))
    # Two chunks of pixels that are not yet cropped.
    assert fed - one == 2 * 9 * 4 * 3 * (80 * 80 - 72 * 72)
    state, each = sum(found["state_bytes"].values()), two - one
    assert one == state + each
    pixels = 9 * 4 * 3 * (2 * 72 * 72 + 4 * 64 * 64)
    saved = found["activation_bytes"]["float32"]["none"]
    assert each - pixels == pytest.approx(saved, rel=0.2)


def test_the_largest_microbatch_divides_the_step_and_fits_to_the_byte(config, found):
    state, two = sum(found["state_bytes"].values()), found["peak_bytes"]["float32"]["none"]
    five = state + 5 * (two - state) // 2
    # 12 episodes have no chunks of 5.
    for memory, largest in ((five, 4), (two, 2), (two - 1, 1), (state, 0)):
        again = training_cost(config, CLASSES, Device(memory))
        assert again["largest_microbatch"] == {"float32": {"none": largest}}
        assert again["peak_bytes"] == found["peak_bytes"]


def test_every_precision_and_remat_is_traced_in_its_context(config, found, monkeypatch):
    opened, traced = [], []

    @contextlib.contextmanager
    def noted(name):
        opened.append(name)
        yield
        opened.remove(name)

    def traced_cost(function, *arguments):
        def in_context(*given):
            traced.append(tuple(opened))
            return function(*given)

        return cost(in_context, *arguments)

    monkeypatch.setattr(counting, "cost", traced_cost)
    for table, names in (("PRECISIONS", ("exact", "coarse")), ("REMATS", ("keep", "again"))):
        contexts = {name: functools.partial(noted, name) for name in names}
        monkeypatch.setattr(counting, table, contexts)
    again = training_cost(config, CLASSES, Device(memory=MEMORY))
    pairs = [(p, r) for p in ("exact", "coarse") for r in ("keep", "again")]
    # The last one is a clip by itself.
    assert traced == [*pairs, ()]
    assert again["flops"] == found["flops"]
    for key in ("activation_bytes", "peak_bytes", "largest_microbatch"):
        row = dict.fromkeys(("keep", "again"), found[key]["float32"]["none"])
        assert again[key] == {"exact": row, "coarse": row}
    rows = re.findall(r"^(\w+) +(\w+) +[\d.]+ +[\d.]+ +\d+$", format_cost(again), re.M)
    assert rows == pairs


def test_the_tables_show_what_was_counted(found):
    text = format_cost(found)
    assert "protonet on resnet18, 11 training classes" in text
    assert "3-way 2-shot, 1 queries of a class: 9 clips of 4 frames of 64×64 pixels" in text
    total = re.search(r"^total +([\d,]+)$", text, re.M)
    assert int(total[1].replace(",", "")) == found["parameters"]["total"]
    shown = re.search(r"^episode +([\d.]+)e12 +([\d.]+)e12$", text, re.M)
    assert float(shown[1]) == pytest.approx(found["flops"]["episode"]["forward"] / 1e12, abs=5e-4)
    assert float(shown[2]) == pytest.approx(found["flops"]["episode"]["backward"] / 1e12, abs=5e-4)
    row = re.search(r"^float32 +none +([\d.]+) +([\d.]+) +(\d+)$", text, re.M)
    assert float(row[1]) == pytest.approx(
        found["activation_bytes"]["float32"]["none"] / 2**30, abs=5e-3
    )
    assert float(row[2]) == pytest.approx(found["peak_bytes"]["float32"]["none"] / 2**30, abs=5e-3)
    assert int(row[3]) == found["largest_microbatch"]["float32"]["none"]
    assert "largest microbatch in 2.00 GiB" in text
    assert "100 steps take" in text


def test_without_a_device_nothing_is_said_of_its_memory_and_its_time(config):
    found = training_cost(config, CLASSES, Device())
    assert found["training_hours"] is None
    assert found["largest_microbatch"] == {"float32": {"none": None}}
    text = format_cost(found)
    assert "microbatch" not in text
    assert "steps take" not in text

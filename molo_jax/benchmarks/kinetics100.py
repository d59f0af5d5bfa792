"""100 classes of Kinetics-400."""

import dataclasses

from molo_jax.benchmarks.record import TENTHS, Benchmark, ListSize, OfficialList, PublishedTraining

_HYRSM = PublishedTraining(
    base_lr=2.2e-5,
    warmup_start_lr=5e-6,
    steps_iter=100,
    boundaries=(0, 4, 6, 9),
    factors=(1.0, 0.5, 0.1, 0.05),
    iterations=1200,
    settings={"classification": 0.4, "positional_a": 2048.0, "positional_b": 0.01},
)
KINETICS100 = Benchmark(
    name="kinetics100",
    title="Kinetics-400 (100 of its classes)",
    list_folder="kinetics100",
    videos="https://github.com/cvdfoundation/kinetics-dataset",
    layout="train_256/air_drumming/-VtLx-mcPds_000012_000022.mp4",
    root="data/kinetics100/videos",
    lists={
        "train": OfficialList(
            ListSize(6400, 64, 100),
            "92cac54f79940ab50bb296c48048260238ce82349ad87424994c9839c24a40c6",
        ),
        "val": OfficialList(
            ListSize(1200, 12, 100),
            "635b5e78f0031f1823379675cde8f1ffe7bedb1025a817df214a03b0c1674932",
        ),
        "test": OfficialList(
            ListSize(2400, 24, 100),
            "c43ada5179a8c402405849f1bab0df7cfa5d2e103fd943e5672f90ba188add53",
        ),
    },
    seed=18,
    trainings={
        "molo": PublishedTraining(
            base_lr=2e-5,
            warmup_start_lr=5e-6,
            steps_iter=350,
            boundaries=(0, 4, 6),
            factors=TENTHS,
            iterations=5000,
            settings={
                "classification": 0.1,
                "reconstruction": 4 * 0.1,
                "positional_a": 2048.0,
                "positional_b": 0.02,
            },
        ),
        "hyrsm": _HYRSM,
        # The schedule is that of HyRSM.
        "hyrsm_pp": dataclasses.replace(
            _HYRSM,
            iterations=1500,
            settings={
                "classification": 0.1,
                "window": 3,
                "temporal": 0.1,
                "balance": 23,
                "apart_weight": 10,
            },
        ),
    },
    sampling="window",
)

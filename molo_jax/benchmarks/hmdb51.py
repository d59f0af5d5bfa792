"""HMDB51."""

import dataclasses

from molo_jax.benchmarks.record import HALVES, Benchmark, ListSize, OfficialList, PublishedTraining

_HYRSM = PublishedTraining(
    base_lr=5e-5,
    warmup_start_lr=1e-5,
    steps_iter=300,
    boundaries=(0, 2, 3, 7),
    factors=HALVES,
    iterations=2000,
    settings={"classification": 0.15},
    accumulation=2,
)
HMDB51 = Benchmark(
    name="hmdb51",
    title="HMDB51",
    list_folder="hmdb51",
    videos="https://serre.lab.brown.edu/hmdb51.html",
    layout="videos/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
    root="data/hmdb51/videos",
    lists={
        "train": OfficialList(
            ListSize(4280, 31, 102),
            "59a5a0fe9c831bf9b46f05082a25828196a1b44ce4a2ab2dc64b17dead845069",
        ),
        "val": OfficialList(
            ListSize(1194, 10, 102),
            "33703ba18c1f036607b2c4872b1bb1c8e0290dcaaf9671264f7ec2ed1cf7de9a",
        ),
        "test": OfficialList(
            ListSize(1292, 10, 103),
            "ee8fa2c56e3ace7dcb2b025ea5c7ebf6d2c56f2f114c0bd3a992a894ace9b997",
        ),
    },
    seed=18,
    trainings={
        "molo": PublishedTraining(
            base_lr=5e-5,
            warmup_start_lr=1e-5,
            steps_iter=500,
            boundaries=(0, 3, 5, 7),
            factors=HALVES,
            iterations=2000,
            settings={"classification": 0.4, "reconstruction": 4 * 0.05},
        ),
        "hyrsm": _HYRSM,
        # The schedule is that of HyRSM.
        "hyrsm_pp": dataclasses.replace(
            _HYRSM,
            settings={
                "classification": 0.15,
                "window": 1,
                "temporal": 0.2,
                "balance": 51,
                "apart_weight": 20,
                "positional_a": 50.0,
            },
        ),
    },
)

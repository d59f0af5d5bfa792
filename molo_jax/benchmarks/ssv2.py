"""Something-Something V2 with its full lists."""

import dataclasses

from molo_jax.benchmarks.record import TENTHS, Benchmark, ListSize, OfficialList, PublishedTraining

_HYRSM = PublishedTraining(
    base_lr=1e-4,
    warmup_start_lr=2e-5,
    steps_iter=3000,
    boundaries=(0, 6, 9),
    factors=TENTHS,
    iterations=40000,
    settings={"classification": 0.6},
)
SSV2 = Benchmark(
    name="ssv2",
    title="Something-Something V2",
    list_folder="ssv2_full",
    videos="https://www.qualcomm.com/developer/software/something-something-v-2-dataset",
    layout="78687 (.webm or .mp4)",
    root="data/ssv2/videos",
    lists={
        "train": OfficialList(
            ListSize(67013, 64, 156),
            "886fdd2b9215328efaee7e73ae2ea8f5b3e99fd3732679481652bad1506df5c0",
        ),
        "val": OfficialList(
            ListSize(1926, 12, 56),
            "b9884e9e716fbb9a902121d797c0a43ec04517085eb6b36a2804e037db63d6eb",
        ),
        "test": OfficialList(
            ListSize(2857, 24, 17),
            "83a1ac8e7c6f720c55dced1dc9deae1c11fb8271f8a3bb1f0952aed068646a1e",
        ),
    },
    seed=8,
    trainings={
        "molo": PublishedTraining(
            base_lr=1e-4,
            warmup_start_lr=2e-5,
            steps_iter=6000,
            boundaries=(0, 6, 9),
            factors=TENTHS,
            iterations=50000,
            settings={"classification": 0.8, "reconstruction": 4 * 0.1},
        ),
        "hyrsm": _HYRSM,
        # The schedule is that of HyRSM.
        "hyrsm_pp": dataclasses.replace(
            _HYRSM,
            settings={
                "classification": 0.6,
                "window": 1,
                "temporal": 0.3,
                "balance": 51,
                "apart_weight": 10,
            },
        ),
    },
)

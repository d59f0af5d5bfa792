"""The commands that the documentation names."""

import dataclasses
import fnmatch
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
BENCHMARKS = ("ssv2", "ssv2_small", "kinetics100", "ucf101", "hmdb51")
_PROGRAMS = ("python", "python3", "make", "pip", "pytest", "ruff", "dask", "molo_jax", "molo-jax")
_FENCE = re.compile(r"^(```|~~~).*?\n(.*?)^\1", re.M | re.S)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
# What may stand in front of a program: a prompt, the settings of variables, a folder of programs.
_FRONT = re.compile(r"^(\$ )?(nohup |srun )?([A-Z_]+=\S* )*(\.venv/bin/)?")
# What may stand behind a command: a remark, an ampersand.
_BEHIND = re.compile(r"(\s#\s|\s\s+(?=\S)).*$|\s&$|\s(->|→)\s.*$")


def documents(root: Path = ROOT) -> list[Path]:
    """Every file that tells a user what to type: pages, commands and configurations."""
    pages = [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("parity_tests/**/*.md")]
    folders = ("configs", "molo_jax", "benchmarks", "parity_tests", "parity_tests/golden")
    modules = [path for folder in folders for path in (root / folder).glob("*.py")]
    return sorted([*pages, *modules])


def commands(path: Path) -> list[str]:
    """The commands of a page, or of the docstring of a module, as they stand there."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        docstring = re.match(r'\s*"""(.*?)"""', text, re.S)
        text = docstring[1] if docstring else ""
        blocks = [text]
    else:
        blocks = [block for _, block in _FENCE.findall(text)]
        text = _FENCE.sub("", text)
    lines = [line for block in blocks for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines()]
    inline = [" ".join(span.split()) for span in _INLINE.findall(text)]
    return [found for part in [*lines, *inline] for found in _in_line(part)]


def _in_line(line: str) -> Iterator[str]:
    for part in line.strip().split("&&"):
        command = _BEHIND.sub("", _FRONT.sub("", part.strip())).strip()
        if command.split(" ")[0] in _PROGRAMS and " " in command:
            yield command


@dataclasses.dataclass(frozen=True)
class Shape:
    """A command without the values of its example.

    Attributes:
        program: `molo_jax.prepare`, `benchmarks/data.py`, `make`, `pip`, …
        flags: names of its flags, without dashes.
        values: the values of the flags that decide what is done: `dataset`, `mode`, `backend`,
            `config` (the name of the file) and `method` (what stands behind its colon). Other
            values, paths and numbers, are left out.
        keys: keys of the configuration that it changes.
        arguments: what is no flag.
    """

    program: str
    flags: frozenset[str]
    values: tuple[tuple[str, str], ...]
    keys: frozenset[str]
    arguments: tuple[str, ...]


_DECIDE = ("dataset", "mode", "backend", "config")


def shape(command: str) -> Shape:
    """Takes a command apart."""
    words = shlex.split(re.sub(r"[\[\]…](?!\w+\])", " ", command))
    program, *rest = words
    if program in ("python", "python3"):
        takes = 2 if rest[0] == "-m" else 1
        program, rest = rest[takes - 1], rest[takes:]
    # Another name for the same module.
    if program == "molo-jax" and not rest[0].startswith("--"):
        program, rest = f"molo_jax.{rest[0]}", rest[1:]
    given = dict(w.removeprefix("--").partition("=")[::2] for w in rest if w.startswith("--"))
    keys = {name.removeprefix("config.") for name in given if name.startswith("config.")}
    path, _, method = given.get("config", "").partition(":")
    decide = given | {"config": path} if path else given
    values = {name: Path(decide[name]).stem for name in _DECIDE if name in decide}
    if method:
        values["method"] = method
    return Shape(
        program,
        frozenset(name for name in given if not name.startswith("config.")),
        tuple(values.items()),
        frozenset(keys),
        tuple(word for word in rest if not word.startswith("--")),
    )


@dataclasses.dataclass(frozen=True)
class Row:
    """Commands of one kind, and where they are run.

    Attributes:
        program: as `Shape.program`.
        tests: the tests that run them, as `file::function`.
        flags: those that the tests use.
        values: patterns of the values that decide what is done; a flag without one takes any. Only
            a row with a pattern of `method` covers commands that choose a method.
    """

    program: str
    tests: tuple[str, ...]
    flags: str = ""
    values: dict[str, str] = dataclasses.field(default_factory=dict)

    def covers(self, command: Shape) -> bool:
        """Whether the tests run such a command."""
        given = dict(command.values)
        patterns = {"method": ""} | self.values
        return (
            command.program == self.program
            and command.flags <= set(self.flags.split())
            and all(fnmatch.fnmatch(given.get(name, ""), p) for name, p in patterns.items())
        )


HERE = "tests/test_documentation.py"
DASK = "tests/data/store/test_dask_cluster.py"
PREPARE = "dataset videos out check report resize splits_dir workers beam_runner"
EPISODES = "n_way n_shot n_query train_n_shot train_n_query num_frames"
TABLE = (
    Row("make", (f"{HERE}::test_make_knows_every_documented_target",)),
    Row("venv", (f"{HERE}::test_what_is_installed_by_hand_exists",)),
    Row("pip", (f"{HERE}::test_what_is_installed_by_hand_exists",)),
    Row("pytest", (f"{HERE}::test_what_is_installed_by_hand_exists",)),
    Row("ruff", (f"{HERE}::test_what_is_installed_by_hand_exists",)),
    Row(
        "molo-jax",
        (
            "tests/test_commands.py::test_the_help_lists_every_command",
            "tests/test_commands.py::test_the_version_is_that_of_the_package_in_every_command",
        ),
        "help version",
    ),
    # Stands for every command.
    *(
        Row(
            f"molo_jax.{name}",
            (
                "tests/test_commands.py::test_every_command_of_the_package_has_its_name_and_no_other",
            ),
        )
        for name in ("COMMAND", "main")
    ),
    Row(
        "molo_jax.main",
        (
            "tests/test_package.py::test_the_installed_script_runs_the_commands_with_packaged_configurations",
        ),
        "config list_keys",
        {"config": "*"},
    ),
    Row(
        "molo_jax.prepare",
        ("tests/test_prepare.py::test_the_generated_videos_are_prepared_too",),
        f"dataset out seed train_videos val_videos test_videos {EPISODES}",
        {"dataset": "synthetic"},
    ),
    Row(
        "molo_jax.prepare",
        (
            "tests/test_main.py::test_ones_own_videos_are_prepared_trained_on_and_evaluated",
            "tests/test_prepare.py::test_every_fault_is_reported_with_its_reason_and_the_rest_is_prepared",
            f"{HERE}::test_a_folder_of_classes_is_divided_as_documented",
        ),
        f"{PREPARE} {EPISODES} ratio seed split_file",
        {"dataset": "folder"},
    ),
    Row(
        "molo_jax.prepare",
        (
            f"{DASK}::test_an_interruption_and_a_killed_worker_cost_no_finished_file",
            f"{DASK}::test_a_crash_a_hang_and_a_bad_video_cost_themselves_alone_as_they_do_here",
        ),
        f"{PREPARE} {EPISODES} chroma beam_pipeline_options",
        {"dataset": "folder"},
    ),
    Row("dask", (f"{DASK}::test_a_scheduler_without_workers_is_said",), "nthreads host"),
    *(
        Row(
            "molo_jax.prepare",
            (f"{HERE}::test_the_benchmarks_are_prepared_as_documented",),
            f"{PREPARE} {EPISODES}",
            {"dataset": name},
        )
        for name in BENCHMARKS
    ),
    # The command is named, and nothing of it.
    Row("molo_jax.prepare", (f"{HERE}::test_the_benchmarks_are_prepared_as_documented",), ""),
    Row(
        "molo_jax.main",
        (
            "tests/test_main.py::test_a_run_leaves_checkpoints_metrics_results_and_the_picture",
            "tests/test_main.py::test_a_result_file_holds_what_the_table_shows_and_how_it_came_about",
        ),
        "config workdir mode",
        {"config": "synthetic"},
    ),
    Row(
        "molo_jax.main",
        ("tests/test_main.py::test_a_run_leaves_checkpoints_metrics_results_and_the_picture",),
        "config workdir mode",
        {"config": "FILE"},
    ),
    Row(
        "molo_jax.main",
        ("tests/test_distributed.py::test_the_command_trains_until_one_process_is_stopped",),
        "config workdir mode distributed coordinator num_processes process_id",
        {"config": "*"},
    ),
    Row(
        "molo_jax.main",
        (
            "tests/test_main.py::test_ones_own_videos_are_prepared_trained_on_and_evaluated",
            f"{HERE}::test_a_configuration_without_its_data_names_the_command_that_prepares_them",
        ),
        "config workdir mode",
        {"config": "folder"},
    ),
    Row(
        "molo_jax.main",
        (
            f"{HERE}::test_a_configuration_without_its_data_names_the_command_that_prepares_them",
            "tests/test_main.py::test_init_from_evaluates_those_weights_also_from_a_pytorch_file",
            "tests/weights/test_imagenet.py::test_*imagenet*",
        ),
        "config workdir mode",
        {"config": "*_[15]shot"},
    ),
    Row(
        "molo_jax.main",
        (
            f"{HERE}::test_a_documented_method_is_chosen_behind_the_name_of_the_file",
            f"{HERE}::test_every_method_is_chosen_for_the_demonstration",
            "tests/test_house.py::test_it_is_rebuilt_from_its_checkpoint_alone_and_evaluated_and_drawn",
        ),
        "config workdir mode list_keys",
        {"config": "*", "method": "?*"},
    ),
    Row(
        "molo_jax.embed",
        (
            "tests/test_embed.py::test_the_command_embeds_once_exports_and_finds_the_features_again",
            "tests/test_embed.py::test_where_features_cannot_be_exported_to_is_said_before_the_work",
        ),
        "config workdir split draws export",
        {"config": "*"},
    ),
    Row(
        "molo_jax.predict",
        (
            "tests/test_predict.py::test_the_command_predicts_tells_bad_clips_and_writes_its_files",
            "tests/test_predict.py::test_weights_and_a_support_set_make_a_classifier_that_is_saved",
            "tests/test_predict.py::test_a_long_video_is_labeled_along_its_time",
        ),
        "weights support videos out report save classifier window stride shortest segments"
        " subtitles annotate",
    ),
    Row(
        "benchmarks/unknown.py",
        (
            "tests/test_unknown_benchmark.py::test_the_rates_are_those_of_the_drawn_classifiers",
            "tests/test_unknown_benchmark.py::test_too_few_classes_are_refused_with_both_numbers",
        ),
        "weights videos names",
    ),
    Row(
        "molo_jax.compare",
        (
            "tests/test_compare.py::test_the_differences_are_those_from_the_baseline_on_the_same_episodes",
            "tests/test_compare.py::test_networks_tested_on_other_data_sets_have_a_table_across_them",
        ),
        "baseline split out",
    ),
    Row(
        "benchmarks/intervals.py",
        ("tests/test_intervals_benchmark.py::test_the_table_shows_what_was_measured",),
        "classes videos least_videos repetitions episodes",
    ),
    Row(
        "benchmarks/prediction.py",
        ("tests/test_prediction_benchmark.py::test_every_run_is_timed_and_compared",),
        "backbone",
    ),
    Row(
        "molo_jax.report",
        (
            "tests/test_report.py::test_the_command_writes_the_page_and_names_what_is_missing",
            "tests/test_report.py::test_by_default_the_page_is_in_the_work_folder_and_pictures_can_be_left_out",
        ),
        "out prepared nopictures map_clips",
    ),
    Row(
        "molo_jax.summary",
        (
            "tests/test_summary.py::test_the_command_needs_no_data_and_writes_what_it_prints",
            "tests/test_summary.py::test_the_table_of_the_documentation_is_what_the_command_prints",
        ),
        "config memory peak utilization",
        {"config": "*"},
    ),
    Row(
        "molo_jax.app",
        (
            "tests/test_app.py::test_the_page_is_served_and_ends_without_a_trace",
            "tests/prediction/test_page.py::test_from_clips_to_the_answer_and_no_video_stays",
        ),
        "weights port unknown",
    ),
    Row(
        "molo_jax.export",
        (
            "tests/test_export.py::test_the_commands_of_the_page_write_both_formats",
            "tests/test_export.py::test_what_exists_is_replaced_only_on_demand_and_only_an_export",
        ),
        "weights out format overwrite",
    ),
    Row(
        "molo_jax.convert",
        (
            "tests/test_convert.py::test_the_command_prints_the_summary_and_ends_with_0",
            "tests/test_convert.py::test_a_round_trip_gives_the_same_bits_names_and_order",
            "tests/test_convert.py::test_what_exists_is_replaced_only_on_demand_and_only_by_its_like",
        ),
        "layout overwrite",
    ),
    Row(
        "parity_tests.compare",
        (
            "parity_tests/test_commands.py::test_the_comparison_of_ones_own_weights_replaces_the_table",
        ),
        "checkpoint backbone mode size frames way seed write",
    ),
    Row(
        "parity_tests.golden",
        (
            "parity_tests/test_golden.py::test_recorded_values_are_reproduced",
            "parity_tests/test_golden.py::test_the_command_reports_and_exits_by_what_it_found",
            "parity_tests/test_ties.py::test_a_near_tie_is_decided_in_float64",
            "parity_tests/test_commands.py::test_the_rounding_of_recorded_values_is_shown",
        ),
        "backend json precision",
    ),
    Row(
        "parity_tests.golden.record",
        (
            "parity_tests/test_commands.py::test_what_is_recorded_of_one_implementation_is_replayed_in_it",
            "parity_tests/test_golden_methods.py::test_a_recorded_optimizer_step_is_read_and_replayed",
        ),
        "method kind backbone",
    ),
    Row(
        "parity_tests.training",
        ("parity_tests/test_commands.py::test_a_whole_training_is_compared",),
        "steps out episodes_per_step frames way test_episodes precision",
    ),
    Row(
        "parity_tests.tolerances",
        ("parity_tests/test_tolerances.py::test_the_readme_holds_the_tables",),
    ),
    Row(
        "parity_tests.saved", ("parity_tests/test_saved.py::test_molo_keeps_no_more_than_pytorch",)
    ),
    Row(
        "parity_tests.reduced",
        (
            "parity_tests/test_reduced.py::test_every_stage_in_bfloat16_is_within_its_bound_of_float32",
        ),
    ),
    Row(
        "benchmarks/train_step.py",
        (
            "tests/test_benchmark.py::test_the_printed_ratio_is_the_quotient_of_the_printed_rates",
            "tests/test_benchmark.py::test_a_slow_counterpart_shows_in_the_ratio_and_a_known_device_in_the_utilization",
            "tests/test_benchmark_end_to_end.py::test_prepared_videos_go_through_the_projects_pipeline_into_its_step",
            "tests/test_benchmark_end_to_end.py::test_the_generated_videos_are_made_where_no_folder_is_given",
        ),
        "backbone crop frames way shot query episodes steps warmup json peak variants end_to_end"
        " data",
    ),
    Row(
        "benchmarks/cpu_profile.py",
        ("tests/test_cpu_profile.py::test_a_step_of_both_is_taken_apart",),
        "backbone crop frames way query remat",
    ),
    Row(
        "benchmarks/data.py",
        ("tests/test_data_benchmark.py::test_the_table_follows_from_the_recorded_rounds",),
        "way shot query classes videos_per_class workers seconds_scale episodes rounds clips json",
    ),
    Row(
        "benchmarks/methods.py",
        ("tests/test_methods_benchmark.py::test_the_table_shows_the_result_files_and_the_time",),
        "method steps episodes out data",
    ),
    Row(
        "benchmarks/sweep.py",
        ("tests/test_sweep_benchmark.py::test_every_method_has_a_row_whose_parts_add_up",),
        "method videos backbone classes ways shots",
    ),
    Row(
        "benchmarks/bank.py",
        ("tests/test_sweep_benchmark.py::test_both_ways_predict_the_same_and_the_ratio_is_theirs",),
        "backbone",
    ),
    Row(
        "benchmarks/draws.py",
        ("tests/test_sweep_benchmark.py::test_accuracy_is_shown_for_every_number_of_draws",),
        "config workdir episodes",
    ),
    Row(
        "benchmarks/matching.py",
        ("tests/test_matching_benchmark.py::test_the_table_shows_what_was_measured",),
        "method shots episodes batch classes videos way frames json",
    ),
    Row(
        "benchmarks/precision.py",
        (
            "tests/test_precision_benchmark.py::test_a_generated_network_is_compared_on_the_episodes_of_an_evaluation",
        ),
        "config workdir",
        {"config": "*"},
    ),
    Row(
        "benchmarks/data_memory.py",
        (f"{HERE}::test_the_memory_of_the_input_pipeline_is_printed",),
        "out dataset clips videos splits_dir",
    ),
)

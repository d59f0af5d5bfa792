"""The command that compares networks on the same episodes.

python -m molo_jax.compare RUN RUN … [--baseline=RUN] [--split=test] [--out=DIR]

RUN is a work folder whose network was evaluated, or one of the files eval_…_outcomes.npz in it. The
tables show the accuracies, and the differences from the baseline with their intervals. DIR gets
compare.md, compare.tex and compare.json.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from molo_jax import cli
from molo_jax.analysis.comparison import Group, Run, compare, labelled
from molo_jax.analysis.comparison_tables import as_json, tables
from molo_jax.analysis.outcome_file import outcome_path, read_outcomes
from molo_jax.analysis.tables import as_latex, as_markdown, as_text
from molo_jax.data.lists.splits import STANDARD_SPLITS
from molo_jax.errors import MoloError, UsageError
from molo_jax.files import write_json, write_text, written

ARGUMENTS = ("RUN", "RUN", cli.ANY_MORE)

_BASELINE = flags.DEFINE_string(
    "baseline", None, "The run that the others are compared with; default: the first RUN."
)
_SPLIT = flags.DEFINE_enum(
    "split", "test", STANDARD_SPLITS, "The split whose results in work folders are read."
)
_OUT = flags.DEFINE_string(
    "out", None, "Folder for compare.md, compare.tex and compare.json; it is made where absent."
)


def main(argv: Sequence[str]) -> None:
    """Runs the command with the parsed flags."""
    given = [_BASELINE.value, *argv[1:]] if _BASELINE.value else argv[1:]
    by_place: dict[Path, str] = {}
    for source in given:
        by_place.setdefault(Path(source).resolve(), source)
    sources = list(by_place.values())
    if len(sources) < 2:
        raise UsageError("a comparison needs two different runs; expected RUN RUN …")
    if _OUT.value is not None and (not _OUT.value or Path(_OUT.value).is_file()):
        raise UsageError(f"--out={_OUT.value}: expected a folder")
    found = compared([read_runs(source, _SPLIT.value) for source in sources])
    shown = tables(found)
    print("\n\n".join(as_text(table) for table in shown))
    if _OUT.value is not None:
        _write(Path(_OUT.value), found)


def read_runs(source: str, split: str) -> list[Run]:
    """Reads the outcomes of a run, one for each data set that its network was tested on.

    Args:
        source: a work folder or a file of outcomes.
        split: the split whose files of a work folder are read.

    Raises:
        MoloError: there is no such file, or a file is damaged.
    """
    path = Path(source)
    if not path.exists():
        raise MoloError(f"{source} does not exist; expected a work folder or a file of outcomes")
    if not path.is_dir():
        return [Run(path, source, *read_outcomes(path))]
    # The file of the configured data set has the split alone in its name.
    own, others = outcome_path(path, split), outcome_path(path, f"*_{split}").name
    files = [own] * own.exists() + sorted(set(path.glob(others)) - {own})
    runs = [Run(file, source, *read_outcomes(file)) for file in files]
    runs = [run for run in runs if run.header.get("split") == split]
    if not runs:
        raise MoloError(
            f"{source} has no file {own.name}; evaluate its network first with python -m"
            f" molo_jax.main --mode=eval --config=FILE --config.eval.split={split}"
            f" --workdir={source}"
        )
    return runs


def compared(runs: Sequence[Sequence[Run]]) -> list[Group]:
    """Compares runs on every data set that the first run and another one were tested on.

    Args:
        runs: the outcomes of each run; the first run is the baseline.

    Raises:
        MoloError: the runs are not comparable, or have no data set in common.
    """
    firsts = labelled([of_run[0] for of_run in runs])
    by_dataset: dict[str, list[Run]] = {}
    for of_run, first in zip(runs, firsts, strict=True):
        for run in of_run:
            named = Run(run.path, run.source, run.header, run.outcomes, first.label)
            by_dataset.setdefault(str(run.header.get("dataset")), []).append(named)
    groups = []
    for dataset, tested in by_dataset.items():
        lacking = [run.label for run in firsts if run.label not in {t.label for t in tested}]
        if lacking:
            logging.warning("not tested on %s: %s", dataset, ", ".join(lacking))
        if tested[0].label == firsts[0].label and len(tested) > 1:
            groups.append(compare(tested))
    if not groups:
        tested = [
            f"{of_run[0].source} was tested on"
            f" {' and '.join(str(run.header.get('dataset')) for run in of_run)}"
            for of_run in runs
        ]
        raise MoloError(f"no run has a data set in common with the first: {'; '.join(tested)}")
    return groups


def _write(folder: Path, groups: Sequence[Group]) -> None:
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
    shown = tables(groups)
    for name, form in (("compare.md", as_markdown), ("compare.tex", as_latex)):
        with written(folder / name):
            write_text(folder / name, "\n\n".join(form(table) for table in shown) + "\n")
    write_json(folder / "compare.json", as_json(groups))
    print(f"\nwritten: {folder / 'compare.md'}, compare.tex, compare.json")


if __name__ == "__main__":
    cli.run(main, ARGUMENTS)

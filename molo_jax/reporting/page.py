"""The report: one HTML file without a script and without a network."""

import dataclasses
import datetime
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from molo_jax.analysis.outcome import Outcome
from molo_jax.analysis.summary import Cell, summarize
from molo_jax.files import replacing, written
from molo_jax.methods.settings import METHODS
from molo_jax.prediction.report import breakable, number, signed
from molo_jax.reporting import confusion, plots, statistics
from molo_jax.reporting.commands import versions
from molo_jax.reporting.embedding_map import SIZE
from molo_jax.reporting.illustrations import HardClip, Illustrations
from molo_jax.reporting.matching import GAP
from molo_jax.reporting.notes import notes_of
from molo_jax.reporting.strips import SIDE, Strips
from molo_jax.reporting.work_folder import Evaluated, Result, WorkFolder
from molo_jax.stored_config import flattened

# The page stays below 15 MB with this and with the drawings of 100 classes.
MOST_PICTURE_BYTES = 6 * 2**20
_MOST_PAIRS, _MOST_CARDS = 15, 4
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What of the page needs the network and the videos.

    Attributes:
        strips: the frames of clips.
        hard: the hardest queries.
        illustrations: example episodes and the map; None where they could not be made.
        missing: what is not there, and why; sentences.
    """

    strips: Strips
    hard: Sequence[HardClip] = ()
    illustrations: Illustrations | None = None
    missing: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Grid:
    """The accuracies of one network: a row for each way, an entry for each number of shots."""

    variant: str
    shots: Sequence[int]
    rows: Sequence[tuple[int, Sequence[Result | None]]]


@dataclasses.dataclass(frozen=True)
class Split:
    """What the page says of one evaluated split.

    Attributes:
        id: what the anchors of its parts begin with.
        heading: its name in words.
        evaluated: the results.
        cards: the results that are shown first.
        grids: the accuracies of the trained network and of each control, by way and shots.
        shown: the result whose details are shown.
        plot: the accuracies over way and shots.
        classes: accuracy of each class.
        over: what the intervals of the classes are over.
        confusion: the drawing of the confusion.
        pairs: the classes that are taken for one another.
        details: the file that these details are from.
        notes: what a reader must know of the data.
    """

    id: str
    heading: str
    evaluated: Evaluated
    cards: Sequence[Result]
    grids: Sequence["Grid"]
    shown: Result
    plot: plots.Plot | None
    classes: Sequence[statistics.ClassAccuracy]
    over: str
    confusion: confusion.ConfusionDrawing | None
    pairs: Sequence[statistics.Confused]
    details: str
    notes: Sequence[str]


def write_page(
    path: Path, folder: WorkFolder, pictures: Pictures, *, defaults: Mapping[str, Any]
) -> None:
    """Writes the page; an older file of the name is replaced as a whole.

    Args:
        path: the HTML file.
        folder: what the work folder holds.
        pictures: what is shown of clips, of the first split.
        defaults: the default of each key of the configuration, by its dotted name.

    Raises:
        MoloError: the file cannot be written.
    """
    splits = [_split(place, each) for place, each in enumerate(folder.evaluated)]
    shown = splits[0].shown.record if splits else {}
    config = flattened(shown.get("config") or {})
    settings = METHODS.get(str(shown.get("method") or config.get("method.name", "")))
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(
            style=_text("page.css"),
            folder=folder,
            title=_title(shown, config, settings),
            splits=splits,
            curves=plots.curves(
                folder.metrics, settings.losses if settings else {}, _chance(config)
            ),
            pictures=pictures,
            config=[
                (key, value, defaults.get(key, value) != value) for key, value in config.items()
            ],
            command=folder.commands[-1] if folder.commands else None,
            now=versions(),
            made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            zip=zip,
            SIDE=SIDE,
            GAP=GAP,
            SIZE=SIZE,
        )
    )
    with written(path), replacing(path) as temporary:
        temporary.write_bytes(page.encode("utf-8", "backslashreplace"))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("molo_jax.reporting", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "percent": percent,
        "breakable": lambda text: breakable(_printable(str(text))),
    }
    return environment


def _printable(value: Any) -> Any:
    """Takes characters out of a text that no HTML file may hold."""
    if isinstance(value, str) and not isinstance(value, markupsafe.Markup):
        return _CONTROL.sub("\ufffd", value)
    return value


def _text(name: str) -> markupsafe.Markup:
    """Reads a file that goes into the page as it is."""
    folder = resources.files("molo_jax.reporting") / "templates"
    return markupsafe.Markup((folder / name).read_text(encoding="utf-8"))


def percent(value: float | None, digits: int = 1) -> str:
    """Writes a share in percent without the sign; a dash where it is not known."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def _title(record: Mapping[str, Any], config: Mapping[str, Any], settings: Any) -> str:
    dataset = record.get("dataset") or config.get("dataset.name") or "Training"
    method = settings.title if settings else record.get("method") or ""
    named = (str(each) for each in (dataset, method, config.get("model.backbone", "")) if each)
    return ", ".join(named)


def _chance(config: Mapping[str, Any]) -> float | None:
    way = config.get("train.n_way")
    return 1 / way if type(way) is int and way > 0 else None


def _split(place: int, evaluated: Evaluated) -> Split:
    """Computes what the page says of a split."""
    notes = notes_of(evaluated)
    if evaluated.outcomes and stale(evaluated):
        notes.append(
            f"{evaluated.outcomes_source} is of another network than the results, so it is not"
            " used. Evaluate again."
        )
    outcome, cell, names = details_of(evaluated)
    shown = statistics.completed(evaluated.shown, cell, names)
    together = None if cell is None or tuple(names) != shown.classes else cell.together
    classes, over = statistics.class_accuracies(shown, outcome, cell, names)
    source = evaluated.outcomes_source if outcome is not None else shown.source
    ordered = sorted(
        evaluated.results,
        key=lambda each: (each.way != 5, each.way, each.shot not in (1, 5), each.shot),
    )
    return Split(
        id=f"split-{place + 1}",
        heading=_heading(evaluated),
        evaluated=evaluated,
        cards=[shown if each.cell == shown.cell else each for each in ordered[:_MOST_CARDS]],
        grids=_grids(evaluated),
        shown=shown,
        plot=plots.ways_and_shots(evaluated.results),
        classes=classes,
        over=over,
        confusion=confusion.drawing(shown, together),
        pairs=statistics.confused_pairs(shown, together, _MOST_PAIRS),
        details=source,
        notes=notes,
    )


def _grids(evaluated: Evaluated) -> list[Grid]:
    results = [*evaluated.results, *evaluated.controls]
    found = []
    for variant in dict.fromkeys(each.variant for each in results):
        own = {each.cell: each for each in results if each.variant == variant}
        ways, shots = (sorted({cell[axis] for cell in own}) for axis in (0, 1))
        rows = [(way, [own.get((way, shot)) for shot in shots]) for way in ways]
        found.append(Grid(variant, shots, rows))
    return found


def _heading(evaluated: Evaluated) -> str:
    record = evaluated.shown.record
    dataset, split = record.get("dataset"), record.get("split")
    return f"{dataset}, {split} split" if dataset and split else evaluated.name


def details_of(evaluated: Evaluated) -> tuple[Outcome | None, Cell | None, list[str]]:
    """Returns the outcomes of the shown result, their summary, and the names of the classes.

    Outcomes of another network than that of the result are not used.
    """
    shown, header = evaluated.shown, evaluated.header
    outcome = evaluated.outcomes.get(shown.cell)
    if outcome is None or stale(evaluated):
        return None, None, []
    return outcome, summarize(outcome, header["class_sizes"]), header["class_names"]


def stale(evaluated: Evaluated) -> bool:
    """Whether the outcomes are of another network than the shown result."""
    record, header = evaluated.shown.record, evaluated.header
    pairs = (("checkpoint", "checkpoint"), ("checkpoint_step", "step"))
    return any(
        record.get(mine) is not None and header.get(theirs) not in (None, record[mine])
        for mine, theirs in pairs
    )

"""One run of the report: a work folder is read, its clips are drawn, the page is written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from molo_jax import build
from molo_jax.analysis.outcome import Outcome
from molo_jax.config import base_config
from molo_jax.errors import MoloError
from molo_jax.evaluate import Evaluation
from molo_jax.methods.settings import METHODS
from molo_jax.old_checkpoints import config_of_now
from molo_jax.reporting.illustrations import MAP_CLIPS, hard_clips, illustrate
from molo_jax.reporting.page import MOST_PICTURE_BYTES, Pictures, details_of, write_page
from molo_jax.reporting.strips import Strips
from molo_jax.reporting.work_folder import Result, WorkFolder, read_work_folder
from molo_jax.stored_config import flattened


def write_report(
    workdir: Path,
    out: Path,
    *,
    prepared: str = "",
    pictures: bool = True,
    map_clips: int = MAP_CLIPS,
) -> None:
    """Writes the report of a work folder.

    Args:
        workdir: the work folder.
        out: the HTML file.
        prepared: folder of the prepared videos; empty: that of the configuration.
        pictures: whether to draw what needs the network and the videos.
        map_clips: how many clips the embedding map shows at most.

    Raises:
        MoloError: there is nothing to report, a file is damaged, or the page cannot be written.
    """
    folder = read_work_folder(workdir)
    config = folder.evaluated[0].shown.record.get("config") if folder.evaluated else None
    drawn = _pictures(folder, prepared, pictures, map_clips)
    write_page(out, folder, drawn, defaults=_defaults(config or {}))


def _defaults(config: dict[str, Any]) -> dict[str, Any]:
    method = config.get("method")
    name = method.get("name") if isinstance(method, dict) else None
    return flattened(base_config(name).to_dict()) if name in METHODS else {}


def _pictures(folder: WorkFolder, prepared: str, wanted: bool, map_clips: int) -> Pictures:
    """Draws what needs the network and the videos; what cannot be drawn is named."""
    strips, missing = Strips(MOST_PICTURE_BYTES), []
    if not folder.evaluated:
        return Pictures(strips)
    evaluated = folder.evaluated[0]
    outcome, _, names = details_of(evaluated)
    evaluation: Evaluation | None = None
    illustrations = None
    what = "Example episodes and the embedding map"
    if not wanted:
        missing.append(f"{what} are left out by --nopictures.")
    elif not evaluated.shown.record:
        missing.append(f"{what} need the configuration, which is in result files (eval_*.json).")
    else:
        try:
            evaluation = _evaluation(evaluated.shown, prepared)
        except Exception as error:
            missing.append(f"The videos could not be opened, so no clips are shown: {_said(error)}")
    hard = _hardest(evaluated.header, outcome, names, strips, evaluation)
    if evaluation is not None:
        source = _source(evaluated.shown, folder.path)
        try:
            illustrations = illustrate(
                evaluation, folder.path, source, strips, outcome=outcome, map_clips=map_clips
            )
        except Exception as error:
            missing.append(f"{what} could not be made: {_said(error)}")
    for sentence in missing:
        logging.warning("%s", sentence)
    if strips.left_out:
        missing.append(f"{strips.left_out} clips have no pictures: the page would be too large.")
    return Pictures(strips, hard, illustrations, missing)


def _hardest(
    header: Any,
    outcome: Outcome | None,
    names: Sequence[str],
    strips: Strips,
    evaluation: Evaluation | None,
) -> Sequence[Any]:
    if outcome is None:
        return ()
    return hard_clips(outcome, names, header["video_names"], strips, evaluation)


def _said(error: Exception) -> str:
    """Says what went wrong; the kind of an error that no one foresaw is part of it."""
    return str(error) if isinstance(error, MoloError) else f"{type(error).__name__}: {error}"


def _evaluation(shown: Result, prepared: str) -> Evaluation:
    """Opens the videos with the stored configuration, for the episodes of one result.

    Raises:
        MoloError: the configuration is of no method, or its videos are not there.
    """
    stored = config_of_now(shown.record.get("config") or {})
    name = stored.get("method", {}).get("name")
    if name not in METHODS:
        raise MoloError(f"{shown.source}: the configuration names no known method ({name!r})")
    config = base_config(name)
    _update(config, stored)
    if prepared:
        # Where another data set was evaluated, the folder is that of its videos.
        place = config.eval if config.eval.dataset else config.data
        config.data.source, place.prepared = "prepared", prepared
    config.eval.ways, config.eval.n_way, config.eval.shots = (), shown.way, (shown.shot,)
    return build.evaluation(config)


def _update(config: ConfigDict, stored: dict[str, Any]) -> None:
    """Takes over what is stored, as far as there still is such a key."""
    for key, value in stored.items():
        if key not in config:
            continue
        if isinstance(config[key], ConfigDict):
            _update(config[key], value)
        else:
            config[key] = tuple(value) if isinstance(value, list) else value


def _source(shown: Result, workdir: Path) -> str:
    """Returns the source of the weights that were evaluated; empty: the work folder."""
    checkpoint = Path(str(shown.record.get("checkpoint", "")))
    given = (shown.record.get("config") or {}).get("init_from") or ""
    of_folder = checkpoint.parent.name in ("best", "checkpoints")
    here = of_folder and checkpoint.parent.parent.name == workdir.absolute().name
    return given if given and not here else ""

"""The command that makes a report of a work folder: one HTML file that can be mailed.

python -m molo_jax.report WORKDIR [--out=FILE] [--prepared=DIR] [--nopictures]

It reads the curves and the results of the work folder, and draws example episodes, the frames of
the hardest queries and the embedding map with the network and the videos, where these are there.
The default of --out is WORKDIR/report.html.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from molo_jax import cli
from molo_jax.errors import UsageError

# In the work folder, unless another file is named.
REPORT_FILE = "report.html"

_OUT = flags.DEFINE_string(
    "out", None, f"The HTML file; default: {REPORT_FILE} in the work folder."
)
_PREPARED = flags.DEFINE_string(
    "prepared", None, "Folder of the prepared videos, if they are not where they were."
)
_PICTURES = flags.DEFINE_bool(
    "pictures",
    True,
    "Draw what needs the network and the videos: example episodes, hardest queries, the map.",
)
_MAP_CLIPS = flags.DEFINE_integer("map_clips", 500, "Clips of the embedding map; 0: no map.")


def main(argv: Sequence[str]) -> None:
    """Runs the command with the parsed flags."""
    workdir = Path(argv[1])
    if _MAP_CLIPS.value < 0:
        raise UsageError(f"--map_clips={_MAP_CLIPS.value}: expected 0 or more")
    out = Path(_OUT.value) if _OUT.value else workdir / REPORT_FILE
    if out.is_dir() or (_OUT.value and not out.absolute().parent.is_dir()):
        raise UsageError(f"--out={out}: expected a file in a folder that exists")
    # This imports JAX, for which a mistake in the flags should not have to wait.
    from molo_jax.report_run import write_report

    write_report(
        workdir,
        out,
        prepared=_PREPARED.value or "",
        pictures=_PICTURES.value,
        map_clips=_MAP_CLIPS.value,
    )
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    cli.run(main, ["WORKDIR"])

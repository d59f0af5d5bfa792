"""What all processes of a run know alike of the videos: the list, and which of them are bad.

Episodes are drawn by every process for itself, from the list and without the bad videos; where the
processes knew different things, they would compute different episodes together.
"""

from collections.abc import Mapping

from molo_jax.data.clips.source import ClipSource
from molo_jax.engine import hosts
from molo_jax.errors import MoloError
from molo_jax.provenance import ListRecord


class BadVideos:
    """The bad videos of a split, which all processes come to know.

    Args:
        source: the videos, as this process knows them.
    """

    def __init__(self, source: ClipSource):
        self._source, self._told = source, set()

    def exchange(self) -> None:
        """Tells the others what is new, and takes from them; to be called by all processes.

        With the policy "fail" nothing is exchanged: the first bad video ends everything.
        """
        if hosts.count() == 1 or self._source.on_bad_video == "fail":
            return
        known = self._source.bad_places().items()
        new = [[*place, reason] for place, reason in known if place not in self._told]
        for places in hosts.gather_values(new):
            found: Mapping[tuple[int, int], str] = {(c, v): reason for c, v, reason in places}
            self._source.note_bad(found)
            self._told |= found.keys()


def make_alike(source: ClipSource, dataset: str) -> None:
    """Lets all processes leave out the same videos of a split that they have opened.

    Args:
        source: the videos.
        dataset: name of the data set.

    Raises:
        MoloError: the processes have different lists.
    """
    if hosts.count() == 1:
        return
    digests = hosts.gather_values(ListRecord.of(dataset, source.split).digest)
    for process, digest in enumerate(digests):
        if digest != digests[0]:
            raise MoloError(
                f"process {process} has another list of the {source.split.name} split than process"
                f" 0 (here: {source.split.path}); give all hosts the same data, or a shared folder"
            )
    BadVideos(source).exchange()

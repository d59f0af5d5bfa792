"""The page to try it in a browser: classes on the left, a clip and its answer on the right."""

import contextlib
import functools
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path

import gradio as gr

from molo_jax.data.lists.directory import EXTENSIONS
from molo_jax.errors import MoloError
from molo_jax.prediction import page_html as html
from molo_jax.prediction.embedder import Embedder
from molo_jax.prediction.given import AUTO
from molo_jax.prediction.page_session import (
    Explainer,
    Limits,
    PageSession,
    checked_name,
    forget,
    removed_afterwards,
    write_explanation,
)

SAVED_NAME, REPORT_NAME = "gym.molo", "explanation.html"
# Files that nobody used for so many seconds are removed; how often that is looked at.
_FORGOTTEN, _LOOKED_AT = 1800, 60
# Work on the network is done for one visitor after the other.
_ONE_AT_A_TIME = {"concurrency_limit": 1, "concurrency_id": "network", "api_visibility": "private"}
_CLICK = "() => setTimeout(() => document.querySelector('#{}')?.click(), 300)"


def build_page(
    embedder: Embedder,
    folder: Path,
    *,
    limits: Limits | None = None,
    unknown: str | float = AUTO,
    explainer: Explainer = write_explanation,
) -> gr.Blocks:
    """Builds the page.

    Args:
        embedder: the network.
        folder: where files for visitors are written; whoever starts the page removes it.
        limits: what visitors may ask for.
        unknown: when a clip is *none of these*, see `Classifier`.
        explainer: writes the page that explains a prediction.
    """
    page = Page(embedder, folder, limits or Limits(), unknown, explainer)
    with gr.Blocks(
        title="Which action is it?",
        analytics_enabled=False,
        delete_cache=(_LOOKED_AT, _FORGOTTEN),
    ) as blocks:
        page.lay_out(blocks)
    return blocks


def theme() -> gr.Theme:
    """Returns the look of the page, with the fonts of the visitor's system."""
    return gr.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )


class Page:
    """The components of the page, and what happens when they are used."""

    # The components, in the order in which they are made.
    _session: gr.State
    _revision: gr.State
    _explanation: gr.HTML
    _name: gr.Textbox
    _files: gr.File
    _add: gr.Button
    _class_problems: gr.HTML
    _advice: gr.HTML
    _save: gr.Button
    _open: gr.UploadButton
    _saved: gr.DownloadButton
    _query: gr.File
    _camera: gr.Video
    _clip_problems: gr.HTML
    _answer: gr.HTML
    _right: gr.Dropdown
    _keep: gr.Button
    _explain: gr.Button
    _download: gr.Button
    _report: gr.DownloadButton
    _all: list[gr.components.Component]

    def __init__(
        self,
        embedder: Embedder,
        folder: Path,
        limits: Limits,
        unknown: str | float,
        explainer: Explainer,
    ):
        self._embedder, self._folder, self._limits = embedder, folder, limits
        self._unknown, self._explainer = unknown, explainer
        self._lock = threading.Lock()

    def lay_out(self, blocks: gr.Blocks) -> None:
        """Makes the components and connects them."""
        network = self._embedder.network
        # The order is that of `_shown`.
        self._session = gr.State(None, delete_callback=forget)
        self._revision = gr.State(0)
        gr.HTML(
            '<div class="page-head"><h1>Which action is it?</h1><p>Give a few clips of each class,'
            " then a new one. Everything stays on the machine that runs this page; videos are"
            f" removed as soon as they are read. Network: {escape(network.origin)}.</p></div>"
        )
        with gr.Row(equal_height=False):
            with gr.Column(min_width=420):
                self._lay_out_classes(blocks)
            with gr.Column(min_width=420):
                self._lay_out_clip()
        self._explanation = gr.HTML(elem_id="explanation")
        self._connect()

    def _lay_out_classes(self, blocks: gr.Blocks) -> None:
        gr.Markdown("### 1 · Your classes")
        gr.render(
            inputs=[self._session, self._revision],
            triggers=[blocks.load, self._revision.change],
            show_progress="hidden",
        )(self._lay_out_cards)
        with gr.Group():
            self._name = gr.Textbox(
                label="Name of a class", placeholder="squat", max_lines=1, elem_id="class-name"
            )
            self._files = gr.File(
                label="Clips of it",
                file_count="multiple",
                file_types=list(EXTENSIONS),
                height=130,
                elem_id="class-files",
            )
        self._add = gr.Button("Add to the class", variant="primary", elem_id="add-class")
        self._class_problems = gr.HTML(elem_id="class-problems")
        with gr.Accordion("How good are these examples?", open=True):
            self._advice = gr.HTML(html.advice_list([], 0), elem_id="advice")
        with gr.Row():
            self._save = gr.Button(f"Save the classes as {SAVED_NAME}", size="sm")
            self._open = gr.UploadButton(
                f"Open a {SAVED_NAME}", file_types=[".molo"], size="sm", elem_id="open-molo"
            )
        self._saved = gr.DownloadButton(visible="hidden", elem_id="saved-file")

    def _lay_out_clip(self) -> None:
        gr.Markdown("### 2 · A new clip")
        with gr.Tabs():
            with gr.Tab("File"):
                self._query = gr.File(
                    label="Clip", file_types=list(EXTENSIONS), height=130, elem_id="query-file"
                )
            with gr.Tab("Camera"):
                self._camera = gr.Video(
                    label="Record it",
                    sources=["webcam"],
                    include_audio=False,
                    webcam_options=gr.WebcamOptions(mirror=False),
                    height=300,
                    elem_id="camera",
                )
                # Gradio would remove the sound of a recording, which has none, by the program
                # ffmpeg. A class of one's own would make it write a file beside this one.
                self._camera.preprocess = lambda payload: payload.path if payload else None
        self._clip_problems = gr.HTML(elem_id="clip-problems")
        self._answer = gr.HTML(html.answer(None, None), elem_id="answer")
        with gr.Row(equal_height=False, elem_classes="example-row"):
            self._right = gr.Dropdown(
                label="It is an example of",
                choices=[],
                allow_custom_value=True,
                scale=2,
                elem_id="right-class",
            )
            self._keep = gr.Button("Add it to this class", size="md", scale=1)
        with gr.Row():
            self._explain = gr.Button("Why?", size="md", elem_id="why")
            self._download = gr.Button("Save the explanation", size="md")
        self._report = gr.DownloadButton(visible="hidden", elem_id="report-file")

    def _connect(self) -> None:
        shown = self._all = [
            *(self._session, self._revision, self._class_problems, self._advice),
            *(self._clip_problems, self._answer, self._right, self._explanation),
        ]

        usual = {**_ONE_AT_A_TIME, "show_progress": "minimal"}
        adding = {**_ONE_AT_A_TIME, "show_progress_on": [self._advice]}
        inputs = [self._session, self._revision]
        gr.on(
            [self._add.click, self._name.submit],
            self._add_files,
            [*inputs, self._name, self._files],
            [*shown, self._name, self._files],
            show_progress_on=[self._files],
            **_ONE_AT_A_TIME,
        )
        for component, event, ask in (
            (self._query, self._query.upload, self._ask),
            (self._camera, self._camera.stop_recording, self._ask_recorded),
        ):
            asked = event(
                ask,
                [*inputs, component],
                [*shown, component],
                show_progress_on=[self._answer],
                **_ONE_AT_A_TIME,
            )
        # When the recording is off the page, which may be about to play it before.
        asked.then(self._remove_recordings, [self._session], **_ONE_AT_A_TIME)
        self._keep.click(self._keep_clip, [*inputs, self._right], shown, **usual)
        self._open.upload(self._load, [*inputs, self._open], shown, **adding)
        self._explain.click(
            self._explain_clip,
            [self._session],
            [self._clip_problems, self._explanation],
            show_progress_on=[self._explanation],
            scroll_to_output=True,
            **_ONE_AT_A_TIME,
        )
        for button, file, write, problems in (
            (self._save, self._saved, self._write_classes, self._class_problems),
            (self._download, self._report, self._write_report, self._clip_problems),
        ):
            button.click(write, [self._session], [problems, file], **usual).then(
                None, js=_CLICK.format(file.elem_id), api_visibility="private"
            )

    def _lay_out_cards(self, session: PageSession | None, _: int) -> None:
        """Makes the card of each class anew, whenever the classes have changed."""
        if session is None or not session.classes:
            gr.HTML(html.no_classes())
            return
        inputs = [self._session, self._revision]
        for name, clips in session.classes.items():
            with gr.Group(elem_classes="class-card"):
                gr.HTML(html.class_card(name, clips), padding=True)
                with gr.Row():
                    more = gr.UploadButton(
                        "Add clips", file_count="multiple", file_types=list(EXTENSIONS), size="sm"
                    )
                    remove = gr.Button("Remove the class", size="sm")
            more.upload(
                functools.partial(self._add_more, name),
                [*inputs, more],
                self._all,
                show_progress_on=[self._advice],
                **_ONE_AT_A_TIME,
            )
            remove.click(
                functools.partial(self._remove, name),
                inputs,
                self._all,
                show_progress="hidden",
                **_ONE_AT_A_TIME,
            )

    def _add_files(
        self,
        session: PageSession | None,
        revision: int,
        name: str,
        files: list[str] | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple:
        """Adds clips to a new or known class; the fields are emptied where that worked."""
        session, files = self._mine(session), files or []
        if nameless := self._told(lambda: checked_name(name) and None):
            # The files stay in their field: only the name has to be written.
            return (*self._shown(session, revision, classes=nameless), name, gr.skip())
        with removed_afterwards(files):
            problems = self._told(
                lambda: session.add(name, files, lambda n: progress((n, len(files)), unit="clips"))
            )
        kept = "" if len(problems) < len(files) else name
        return (*self._shown(session, revision, classes=problems), kept, None)

    def _add_more(
        self, name: str, session: PageSession | None, revision: int, files: list[str] | None
    ) -> tuple:
        session, files = self._mine(session), files or []
        with removed_afterwards(files):
            problems = self._told(lambda: session.add(name, files))
        return self._shown(session, revision, classes=problems)

    def _remove(self, name: str, session: PageSession | None, revision: int) -> tuple:
        session = self._mine(session)
        return self._shown(session, revision, classes=self._told(lambda: session.remove(name)))

    def _ask(self, session: PageSession | None, revision: int, file: str | None) -> tuple:
        with removed_afterwards([file] if file else []):
            return self._asked(session, revision, file, recorded=False)

    def _ask_recorded(self, session: PageSession | None, revision: int, file: str | None) -> tuple:
        return self._asked(session, revision, file, recorded=True)

    def _asked(
        self, session: PageSession | None, revision: int, file: str | None, *, recorded: bool
    ) -> tuple:
        session = self._mine(session)
        if not file:
            return (*self._shown(session, revision), None)
        if recorded:
            session.recorded.append(file)
        problems = self._told(lambda: session.ask(file, recorded=recorded))
        return (*self._shown(session, revision, clip=problems), None)

    def _remove_recordings(self, session: PageSession | None) -> None:
        if session is not None:
            with removed_afterwards(session.recorded):
                session.recorded = []

    def _keep_clip(self, session: PageSession | None, revision: int, name: str | None) -> tuple:
        session = self._mine(session)
        return self._shown(session, revision, clip=self._told(lambda: session.add_clip(name)))

    def _load(self, session: PageSession | None, revision: int, file: str | None) -> tuple:
        session = self._mine(session)
        with removed_afterwards([file] if file else []):
            problems = self._told(lambda: session.load(file)) if file else []
        return self._shown(session, revision, classes=problems)

    def _explain_clip(self, session: PageSession | None) -> tuple:
        with self._written(REPORT_NAME) as path:
            problems = self._told(lambda: self._mine(session).explain(self._explainer, path))
            if problems:
                return html.problems(problems), ""
            return "", html.frame_of(path.read_text(encoding="utf-8"))

    def _write_report(self, session: PageSession | None) -> tuple:
        session = self._mine(session)
        return self._offered(
            session, REPORT_NAME, lambda path: session.explain(self._explainer, path)
        )

    def _write_classes(self, session: PageSession | None) -> tuple:
        session = self._mine(session)
        return self._offered(session, SAVED_NAME, session.save)

    def _offered(self, session: PageSession, name: str, write: Callable[[Path], None]) -> tuple:
        """Writes a file for the visitor to download, in place of that of before."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        problems = self._told(lambda: write(folder / name))
        if problems:
            shutil.rmtree(folder)
            return html.problems(problems), gr.skip()
        session.offer(folder / name)
        return "", str(folder / name)

    @contextlib.contextmanager
    def _written(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            yield Path(folder) / name

    def _mine(self, session: PageSession | None) -> PageSession:
        """Returns the visitor's own session; a new one where there is none yet."""
        return session or PageSession(self._embedder, self._limits, self._unknown)

    def _told(self, work: Callable[[], list[str] | None]) -> list[str]:
        """Does something with the network; returns what a visitor should know of it."""
        with self._lock:
            try:
                return work() or []
            except MoloError as error:
                return [str(error)]

    def _shown(
        self,
        session: PageSession,
        revision: int,
        classes: Sequence[str] = (),
        clip: Sequence[str] = (),
    ) -> tuple:
        """Returns the values of all components after something has changed."""
        found: list[str] = []
        failed = self._told(lambda: found.extend(session.advice()))
        tested = session.classifier.calibration.tested if session.classes else 0
        nearest = session.prediction.nearest if session.prediction else None
        return (
            session,
            revision + 1,
            html.problems([*classes, *failed]),
            html.advice_list(found, tested if len(session.classes) > 1 else 0),
            html.problems(clip),
            html.answer(session.clip, session.prediction),
            gr.update(choices=list(session.classes), value=nearest),
            "",
        )

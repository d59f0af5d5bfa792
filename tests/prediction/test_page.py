"""The functions behind the buttons of the page, and what its server sends, without a browser."""

import contextlib
import json
import os
import shutil
import time
import urllib.error
import urllib.request

import pytest
from page_stand_in import ColorEmbedder, write_color, write_page

gradio = pytest.importorskip("gradio")

from molo_jax import serve  # noqa: E402
from molo_jax.errors import MoloError  # noqa: E402
from molo_jax.prediction import page as page_module  # noqa: E402
from molo_jax.prediction.given import AUTO  # noqa: E402
from molo_jax.prediction.page import (  # noqa: E402
    REPORT_NAME,
    SAVED_NAME,
    Page,
    build_page,
)
from molo_jax.prediction.page_session import (  # noqa: E402
    Limits,
    PageSession,
    forget,
    removed_afterwards,
)

# Places in what `_shown` returns.
SESSION, REVISION, CLASSES, ADVICE, CLIP, ANSWER, NAMES = range(7)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colors")
    for color in ("red", "green"):
        for number in range(3):
            write_color(folder / f"{color}{number}.mp4", color, shade=6 * number)
    return folder


@pytest.fixture
def page(tmp_path):
    return Page(ColorEmbedder(), tmp_path, Limits(), AUTO, write_page)


@pytest.fixture
def uploaded(videos, tmp_path):
    """Copies videos to where Gradio puts them, each in a folder of its own."""

    def upload(*names):
        found = []
        for name in names:
            folder = tmp_path / "uploads" / f"{name}-{len(list(tmp_path.rglob('*')))}"
            folder.mkdir(parents=True)
            found.append(str(shutil.copy(videos / name, folder / name)))
        return found

    return upload


def left(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_from_clips_to_the_answer_and_no_video_stays(page, uploaded, tmp_path):
    names = [f"red{n}.mp4" for n in range(2)]
    shown = page._add_files(None, 0, "red", uploaded(*names))
    assert (shown[REVISION], shown[CLASSES], shown[-2:]) == (1, "", ("", None))
    # One class tells nothing yet.
    assert "Add two classes" in shown[ADVICE]
    names = [f"green{n}.mp4" for n in range(2)]
    shown = page._add_files(shown[SESSION], 1, "green", uploaded(*names))
    assert shown[REVISION] == 2
    assert "Each of the 4 clips was compared" in shown[ADVICE]
    shown = page._ask(shown[SESSION], 2, *uploaded("green2.mp4"))
    assert '<div class="label">' in shown[ANSWER]
    assert shown[SESSION].prediction.nearest == "green"
    assert (shown[NAMES]["value"], shown[NAMES]["choices"]) == ("green", ["red", "green"])
    assert left(tmp_path) == []
    assert [path.name for path in tmp_path.rglob("*")] == ["uploads"]


def test_recordings_are_told_apart_by_their_numbers(page, uploaded, tmp_path):
    shown = page._ask_recorded(None, 0, *uploaded("red0.mp4"))
    shown = page._keep_clip(shown[SESSION], 1, "red")
    shown = page._ask_recorded(shown[SESSION], 2, *uploaded("red1.mp4"))
    shown = page._keep_clip(shown[SESSION], 3, "red")
    names = [clip.name for clip in shown[SESSION].classes["red"]]
    assert names == ["recording 1", "recording 2"]
    # The browser may play them until the answer is there.
    assert [path.name for path in left(tmp_path)] == ["red0.mp4", "red1.mp4"]
    page._remove_recordings(shown[SESSION])
    page._remove_recordings(None)
    assert (left(tmp_path), shown[SESSION].recorded) == ([], [])


def test_a_bad_clip_is_said_and_removed_too(page, tmp_path):
    bad = tmp_path / "uploads" / "x" / "bad.mp4"
    bad.parent.mkdir(parents=True)
    bad.write_text("hello")
    shown = page._ask(None, 0, str(bad))
    assert 'role="alert"' in shown[CLIP]
    assert "bad.mp4: " in shown[CLIP]
    assert str(tmp_path) not in shown[CLIP]
    assert left(tmp_path) == []


def test_a_name_that_is_missing_keeps_what_was_written(page, uploaded, tmp_path):
    files = uploaded("red0.mp4")
    shown = page._add_files(None, 0, " ", files)
    assert "needs a name" in shown[CLASSES]
    # The file is still there for the next try.
    assert (shown[-2], shown[-1]) == (" ", gradio.skip())
    assert [str(path) for path in left(tmp_path)] == files
    shown = page._add_files(shown[SESSION], 1, "red", files)
    assert list(shown[SESSION].classes) == ["red"]
    assert left(tmp_path) == []


def test_classes_are_changed_by_their_cards_and_by_the_clip(page, uploaded):
    shown = page._add_more("red", None, 0, uploaded("red0.mp4"))
    shown = page._ask(shown[SESSION], 1, *uploaded("green0.mp4"))
    shown = page._keep_clip(shown[SESSION], 2, "green")
    assert list(shown[SESSION].classes) == ["red", "green"]
    shown = page._keep_clip(shown[SESSION], 3, "red")
    assert "it is in the class “green” already" in shown[CLIP]
    shown = page._remove("red", shown[SESSION], 4)
    assert list(shown[SESSION].classes) == ["green"]
    shown = page._keep_clip(shown[SESSION], 5, None)
    assert "needs a name" in shown[CLIP]


def test_classes_are_saved_and_opened(page, uploaded, tmp_path):
    problems, file = page._write_classes(None)
    assert "nothing to save yet" in problems
    shown = page._add_files(None, 0, "red", uploaded("red0.mp4", "red1.mp4"))
    problems, file = page._write_classes(shown[SESSION])
    assert (problems, file.rpartition("/")[2]) == ("", SAVED_NAME)
    shown = page._load(None, 0, file)
    assert [clip.name for clip in shown[SESSION].classes["red"]] == ["red0.mp4", "red1.mp4"]
    shown = page._load(shown[SESSION], 1, *uploaded("red0.mp4"))
    assert "red0.mp4 is damaged, or no file of a classifier" in shown[CLASSES]
    assert list(shown[SESSION].classes) == ["red"]


def test_the_explanation_is_shown_inside_the_page_and_can_be_saved(page, uploaded, tmp_path):
    problems, shown = page._explain_clip(None)
    assert ("nothing to explain yet" in problems, shown) == (True, "")
    session = page._add_files(None, 0, "red", uploaded("red0.mp4"))[SESSION]
    session = page._ask(session, 1, *uploaded("red1.mp4"))[SESSION]
    problems, shown = page._explain_clip(session)
    assert problems == ""
    assert "nearest is red" in shown
    assert left(tmp_path) == []
    problems, file = page._write_report(session)
    assert file.rpartition("/")[2] == REPORT_NAME
    page._write_report(session)
    page._write_classes(session)
    assert sorted(path.name for path in left(tmp_path)) == [REPORT_NAME, SAVED_NAME]
    forget(session)
    forget(None)
    assert left(tmp_path) == []


def test_a_defect_is_no_message(page, uploaded, monkeypatch):
    """What is not the visitor's mistake is an error of the server, and files are removed."""
    monkeypatch.setattr(PageSession, "ask", lambda session, file, recorded: 1 / 0)
    [file] = uploaded("red0.mp4")
    with pytest.raises(ZeroDivisionError):
        page._ask(None, 0, file)
    with pytest.raises(FileNotFoundError), open(file):
        pass


def test_files_are_removed_and_others_stay(tmp_path):
    one, other = tmp_path / "a" / "x", tmp_path / "a" / "y"
    one.parent.mkdir()
    one.touch()
    other.touch()
    with removed_afterwards([str(one), str(tmp_path / "absent")]):
        assert one.exists()
    assert left(tmp_path) == [other]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("no_proxy", "NO_PROXY", "GRADIO_TEMP_DIR", "HF_HUB_OFFLINE"):
            patch.setenv(name, "")
        serve.prepare_environment(folder)
        blocks = build_page(ColorEmbedder(), folder, explainer=write_page)
        with serve.serving(blocks, host="127.0.0.1", port=None, megabytes=1) as url:
            yield url


def test_the_server_is_this_machines_alone_and_its_page_names_no_other(address):
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address) as answer:
        page, headers = answer.read().decode(), answer.headers
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    for other in ("googleapis", "gstatic", "cdnjs", "share=true"):
        assert other not in page
    assert '"analytics_enabled":false' in page.replace(" ", "")


@pytest.mark.parametrize(
    "path", ["docs", "gradio_api/runs", "monitoring", "gradio_api/file=/etc/passwd"]
)
def test_what_the_page_does_not_need_is_not_served(address, path):
    with (
        pytest.raises(urllib.error.HTTPError) as error,
        contextlib.closing(urllib.request.urlopen(f"{address}{path}")),
    ):
        pass
    assert error.value.code in (403, 404)


def test_an_upload_that_is_too_large_is_refused(address):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
    body += bytes(1_100_000) + b"\r\n--x--\r\n"
    request = urllib.request.Request(
        f"{address}gradio_api/upload",
        data=body,
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    assert error.value.code == 413
    assert b"maximum allowed size of 1000000 bytes" in error.value.read()


def test_a_port_that_is_in_use_is_one_message(address, tmp_path):
    port = int(address.rstrip("/").rpartition(":")[2])
    blocks = build_page(ColorEmbedder(), tmp_path)
    message = rf"cannot listen at 127\.0\.0\.1:{port}: the port is in use"
    served = serve.serving(blocks, host="127.0.0.1", port=port, megabytes=1)
    with pytest.raises(MoloError, match=message), served:
        pass


def test_uploads_that_nobody_used_are_removed(tmp_path, monkeypatch):
    for name in ("no_proxy", "NO_PROXY", "GRADIO_TEMP_DIR", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")
    serve.prepare_environment(tmp_path)
    monkeypatch.setattr(page_module, "_LOOKED_AT", 1)
    monkeypatch.setattr(page_module, "_FORGOTTEN", 1)
    blocks = build_page(ColorEmbedder(), tmp_path, explainer=write_page)
    with serve.serving(blocks, host="127.0.0.1", port=None, megabytes=1) as url:
        body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
        request = urllib.request.Request(
            f"{url}gradio_api/upload",
            data=body + b"content\r\n--x--\r\n",
            headers={"Content-Type": "multipart/form-data; boundary=x"},
        )
        with urllib.request.urlopen(request) as answer:
            [path] = json.loads(answer.read())
        assert path.startswith(str(tmp_path / "uploads"))
        until = time.monotonic() + 60
        while os.path.exists(path) and time.monotonic() < until:
            time.sleep(0.2)
        assert not os.path.exists(path)

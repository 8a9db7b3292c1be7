"""The page with a camera: what is found in a frame, and a real browser whose camera shows a drawn clip."""

import base64
import io
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from PIL import Image
from planted_tasks import Told, grey, upright_face
from resident import resident
from served_page import Page, browser, left_behind, served

from fra.app.live import LiveLooker
from fra.app.look import TILE, Looker
from fra.app.serve import drawn_jpeg
from fra.drawing.drawn_face import draw_face
from fra.faces import pictures
from fra.faces.image import image_from_bytes, jpeg_bytes, write_image
from fra.predict.annotate import UNSURE_COLOUR
from fra.predict.task_model import TaskModel

FAKE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture
def unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Landmarks say how sure they are: of the first one a tenth, of the others nine."""
    plain = TaskModel.answer

    def answer(self: TaskModel, output: torch.Tensor, *, width: int, height: int) -> dict[str, Any]:
        said = plain(self, output, width=width, height=height)
        return said | ({"confidence": [0.1] + [0.9] * 67} if "landmarks" in said else {})

    monkeypatch.setattr(TaskModel, "answer", answer)


# --- what is found in a frame


def test_a_frame_has_the_places_of_its_faces_and_what_the_tasks_say(
    run: Path, tasks: list[Path], photo: Path, told: type[Told], unsure: None
) -> None:
    live = LiveLooker(Looker(str(run), tasks, detector="told", device="cpu"))
    found = live(photo.read_bytes(), 0)
    assert found["sentence"] == ""
    first, second = found["faces"]
    # the square of the first is the one from (5, 9) with 48 pixels a side, its box 1.25 times smaller about its middle
    assert first["square"] == pytest.approx([5 / 200, 9 / 90, 53 / 200, 57 / 90], abs=1e-5)
    assert first["box"] == pytest.approx([(29 - 19.2) / 200, (33 - 19.2) / 90, (29 + 19.2) / 200, (33 + 19.2) / 90])
    assert (first["score"], second["score"]) == (0.9, 0.7)
    assert first["title"] == "glad 70 %"
    assert first["said"]["looks"] == "Smiling, Wearing Hat"
    assert first["said"]["where"].startswith("68 points, confidence ")
    # (0.5, -0.5) in [-1, 1] lies at three quarters of the square from the left, and one from the top
    assert first["points"][0] == pytest.approx([(5 + 36) / 200, (9 + 12) / 90], abs=1e-4)
    assert first["sure"] == [False] + [True] * 67


def test_a_larger_frame_is_searched_reduced_and_its_faces_lie_at_the_same_places(
    run: Path, told: type[Told], photo: Path
) -> None:
    live = LiveLooker(Looker(str(run), detector="told", device="cpu"))
    told.faces = {(320, 144): [upright_face(8, 14.4, 76.8)]}  # as in 200 x 90, 1.6 times as large
    small = image_from_bytes(photo.read_bytes(), "it")
    (face,) = live(jpeg_bytes(pictures.resize(small, 360, 800)), 0)["faces"]
    assert face["square"] == pytest.approx([5 / 200, 9 / 90, 53 / 200, 57 / 90], abs=1e-4)


def test_views_show_who_wins_and_one_region(run: Path, photo: Path, told: type[Told]) -> None:
    live = LiveLooker(Looker(str(run), detector="told", device="cpu"))
    assert live.views == ["strongest region per pixel", "region 1", "region 2", "region 3", "region 4"]

    def shown(view: int | None) -> Image.Image:
        text = live(photo.read_bytes(), view)["faces"][0]["picture"]
        return Image.open(io.BytesIO(base64.b64decode(text.removeprefix("data:image/png;base64,"))))

    colours = {colour for _, colour in shown(0).getcolors()}
    assert colours <= set(pictures.region_colours(4))
    one = pictures.from_pillow(shown(2)).float()
    assert one.std() > 20  # stretched from its least to its largest value
    assert "picture" not in live(photo.read_bytes(), None)["faces"][0]
    assert "picture" not in live(photo.read_bytes(), 9)["faces"][0]


def test_what_is_no_frame_is_a_sentence(run: Path, told: type[Told]) -> None:
    live = LiveLooker(Looker(str(run), detector="told", device="cpu"))
    assert live(b"not a picture", None) == {"sentence": "This frame cannot be read: not an image.", "faces": []}
    stream = io.BytesIO()
    Image.new("1", (2500, 2000)).save(stream, "PNG")
    assert live(stream.getvalue(), None)["sentence"] == "This frame cannot be read: the limit is 4 megapixels."
    assert live(jpeg_bytes(grey(64, 64)), None) == {"sentence": "No face in the frame.", "faces": []}


def test_landmarks_of_low_confidence_are_orange_and_counted(
    run: Path, tasks: list[Path], photo: Path, told: type[Told], unsure: None
) -> None:
    seen = Looker(str(run), tasks[2:], detector="told", device="cpu")(photo.read_bytes())
    for face in seen.faces:
        assert face.crop[:, TILE // 4, 3 * TILE // 4].tolist() == list(UNSURE_COLOUR)
        (where,) = face.said
        assert where.unsure == 1


# --- over HTTP


def get(url: str) -> tuple[int, bytes]:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_drawn_face_is_made_of_its_seed(page: Page) -> None:
    assert get(f"{page.url}/drawn?seed=5") == (200, drawn_jpeg(5))
    picture = image_from_bytes(drawn_jpeg(5), "it").float()
    assert (picture - draw_face(5, size=320).image.float()).abs().mean() < 5
    for seed in ("-1", "4294967296", "1e3", "../1", "\u0663"):
        assert get(f"{page.url}/drawn?seed={urllib.request.quote(seed)}")[0] == 400
    assert get(f"{page.url}/live")[0] == 405


# --- in a browser


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the camera shows, again and again: a drawn face that moves to and fro."""
    path, face = tmp_path_factory.mktemp("camera") / "camera.mjpeg", draw_face(3, size=160).image
    with av.open(str(path), "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", 10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuvj420p"
        stream.codec_context.time_base = Fraction(1, 10)
        for number in range(20):
            frame, left = grey(320, 240), 30 + 6 * min(number, 20 - number)
            frame[:, 40:200, left : left + 160] = face
            pixels = frame.permute(1, 2, 0).contiguous().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def detecting(tasks: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with served(tmp_path_factory.mktemp("live"), "--model", "laptop_fine", "--task", str(tasks[0])) as page:
        yield page


def test_the_camera_is_followed_frame_by_frame_and_let_go(detecting: Page, camera: Path) -> None:
    on_its_way, most, asked, complaints = set(), 0, [], []

    def begun(request: Any) -> None:
        nonlocal most
        asked.append(request.url)
        if "/live" in request.url:
            on_its_way.add(request)
            most = max(most, len(on_its_way))

    with browser(*FAKE, f"--use-file-for-fake-video-capture={camera}") as chromium:
        tab = chromium.new_page(viewport={"width": 400, "height": 800})
        tab.set_default_timeout(60_000)
        tab.on("request", begun)
        tab.on("requestfinished", lambda request: on_its_way.discard(request))
        tab.on("requestfailed", lambda request: on_its_way.discard(request))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(detecting.url)
        tab.get_by_role("button", name="Use the camera").click()
        tab.get_by_text("frames a second").wait_for()
        said = tab.locator("#live .said")
        said.get_by_text("1 feel: glad 70 %").wait_for()
        colours = """() => { const seen = over.getContext("2d").getImageData(0, 0, over.width, over.height).data;
            const count = {}; for (let k = 0; k < seen.length; k += 4) {
                const name = [...seen.slice(k, k + 3)].join(); count[name] = (count[name] ?? 0) + 1; }
            return count; }"""
        box = ",".join(map(str, pictures.region_colours(2)[1]))  # the first face has the second colour
        plain = tab.evaluate(colours)
        assert plain[box] > 200
        tab.locator("#live .view").select_option(label="strongest region per pixel")
        tab.locator("#live .opacity").evaluate("it => { it.value = 100 }")
        painted = ",".join(map(str, pictures.region_colours(8)[2]))  # the region of the eyes, see tests/predict
        tab.wait_for_function(f"() => ({colours})()['{painted}'] > 500")
        assert plain.get(painted, 0) < 500
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        tab.get_by_role("button", name="Analyse this frame").click()
        tab.get_by_text("1 photo analysed.").wait_for()
        assert tab.locator(".look .sentence").inner_text() == "1 face."
        tab.evaluate("() => { window.track = video.srcObject.getTracks()[0] }")
        tab.get_by_role("button", name="Stop the camera").click()
        assert tab.evaluate("[track.readyState, video.srcObject, camera]") == ["ended", None, None]
        assert not tab.locator("#live").is_visible()
        count = len(asked)
        time.sleep(0.7)
        assert len(asked) == count
        tab.get_by_role("button", name="Use the camera").click()  # and once more
        tab.get_by_text("frames a second").wait_for()
        tab.locator("#drawn .faces button").first.click()
        tab.get_by_text("drawn face 1.jpg", exact=True).wait_for()
    assert most == 1
    assert complaints == []
    assert [url for url in asked if not url.startswith((detecting.url, "data:", "blob:"))] == []
    assert left_behind(detecting) == []


def test_without_leave_or_a_camera_there_is_a_sentence(page: Page) -> None:
    with browser() as chromium:
        tab = chromium.new_page()
        tab.set_default_timeout(60_000)
        tab.goto(page.url)
        tab.get_by_role("button", name="Use the camera").click()
        sentence = tab.locator("#live .told")
        sentence.filter(has_text="camera").filter(has_not_text="Waiting").wait_for()
        assert sentence.inner_text().startswith(("This computer has no camera.", "The camera may not be used"))
        assert tab.get_by_role("button", name="Use the camera").is_visible()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("side", [64, pytest.param(1500, marks=pytest.mark.slow)])
def test_twenty_photos_at_once_are_all_answered_and_their_memory_comes_back(
    page: Page, tmp_path: Path, side: int
) -> None:
    names = [f"{number:02d}.jpg" for number in range(20)]
    for number, name in enumerate(names):
        write_image(tmp_path / name, pictures.resize(draw_face(number, size=64).image, side, side))
    with browser() as chromium:
        tab = chromium.new_page()
        tab.set_default_timeout(120_000)
        tab.goto(page.url)
        drop = tab.locator("input[type=file]")
        drop.set_input_files([tmp_path / name for name in names[:4]])
        tab.get_by_text("4 photos analysed.").wait_for()
        before = resident(page.process.pid)
        tab.get_by_role("button", name="Remove all").click()
        drop.set_input_files([tmp_path / name for name in names])
        tab.get_by_text("20 photos analysed.").wait_for()
        assert tab.locator(".look h2").all_inner_texts() == names
        assert tab.locator(".look .sentence").all_inner_texts() == ["1 face."] * 20
        tab.get_by_role("button", name="Remove all").click()
    # a photo of 1500 x 1500 is 7 MB, and several times that while it is looked at
    assert resident(page.process.pid) - before < 40e6

"""`fra app`: what is seen in a photo, and the page that shows it on this machine and asks nothing of any other."""

import csv
import re
import signal
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from PIL import Image
from planted_tasks import SIZE, Told, upright_face
from served_page import Page, browser, left_behind

from fra import cli
from fra.app import look, serve
from fra.app.look import TILE, FaceLook, Look, Looker, Said
from fra.data.framing import CROPS
from fra.drawing.drawn_face import draw_face
from fra.faces import pictures
from fra.faces.image import write_image
from fra.predict.annotate import POINT_COLOUR
from fra.tasks.expression import Expression
from fra.weights.load import load_region_model

# --- what is seen


def test_each_face_has_its_crop_its_regions_and_what_the_tasks_say(
    run: Path, tasks: list[Path], photo: Path, told: type[Told]
) -> None:
    seen = Looker(str(run), tasks, detector="told", device="cpu")(photo.read_bytes())
    assert seen.sentence == "2 faces."
    assert seen.photo is not None
    assert seen.photo.shape == (3, 270, 600)  # small photos are enlarged by a whole factor
    assert [face.score for face in seen.faces] == [0.9, 0.7]
    box = told.faces[(200, 90)][0].box.tolist()
    left, top, width, height = seen.faces[0].box
    shares = [(value + 0.5) / size for value, size in zip(box, (200, 90, 200, 90), strict=True)]
    assert [left, top, left + width, top + height] == pytest.approx(shares)
    assert [entry["answers"]["feel"]["expression"] for entry in seen.answers] == ["glad", "glad"]
    for face in seen.faces:
        feel, looks, where = face.said
        assert (feel.task, feel.short) == ("feel", "glad 70 %")
        assert feel.shares == [
            (name, pytest.approx(share)) for name, share in [("glad", 0.7), ("sad", 0.25), ("calm", 0.05)]
        ]
        # 1 / (1 + exp(-3)) = 0.953, 1 / (1 + exp(-1)) = 0.731
        assert [(name, round(share, 3)) for name, share in looks.shares] == [
            ("Smiling", 0.953), ("Wearing Hat", 0.731), ("Bald", 0.269)
        ]  # fmt: skip
        assert looks.short == "Smiling, Wearing Hat"
        assert (where.short, where.shares) == ("68 points", [])
        # (0.5, -0.5) in [-1, 1] lies at three quarters of the crop from the left, and one from the top
        crop = face.crop
        assert crop[:, TILE // 4, 3 * TILE // 4].tolist() == list(POINT_COLOUR)


def test_regions_are_the_models_and_the_most_structured_come_first(run: Path, photo: Path, told: type[Told]) -> None:
    seen = Looker(str(run), detector="told", device="cpu")(photo.read_bytes())
    picture = pictures.from_pillow(Image.open(photo))
    boxes = [face.box for face in told.faces[(200, 90)]]
    small = torch.stack([CROPS.cut(picture, box, None, SIZE)[0] for box in boxes]) / 255
    maps = load_region_model(run)(small).heatmaps
    order = maps.flatten(2).var(2).mean(0).argsort(descending=True).tolist()
    assert seen.captions == ["strongest region per pixel", *(f"region {region + 1}" for region in order)]
    for face, own in zip(seen.faces, maps, strict=True):
        assert face.views is not None
        for region, view in zip(order, face.views.split(TILE, 2)[1:], strict=True):
            expected = pictures.overlay(face.crop, own[region])
            assert (view.int() - expected.int()).abs().max() <= 2
        assert face.said == []


def test_without_a_detector_the_whole_picture_is_the_face(run: Path, tmp_path: Path) -> None:
    drawn = draw_face(3, size=TILE).image
    write_image(tmp_path / "crop.png", drawn)
    seen = Looker(str(run), detector="none", device="cpu")((tmp_path / "crop.png").read_bytes())
    assert seen.sentence == "1 face."
    assert torch.equal(seen.faces[0].crop, drawn)


def test_steps_of_a_scale_stay_in_their_order() -> None:
    answer = {"probabilities": {"0-2": 0.1, "3-9": 0.2, "more than 10": 0.7}}
    ages, moods = Expression(("0-2", "3-9", "more than 10")), Expression(("sad", "glad"))
    assert [name for name, _ in look._shares(answer, ages)] == ["0-2", "3-9", "more than 10"]
    assert [name for name, _ in look._shares(answer, moods)] == ["more than 10", "3-9", "0-2"]
    assert not Expression(("3-9", "0-2")).ordered


def test_only_the_surest_of_many_faces_are_shown_in_detail(run: Path, photo: Path, told: type[Told]) -> None:
    told.faces[(200, 90)] = [upright_face(5 * place, 9, 48) for place in range(30)]
    seen = Looker(str(run), detector="told", device="cpu")(photo.read_bytes())
    assert (seen.sentence, len(seen.faces)) == ("30 faces, the 24 with the highest detection scores in detail.", 24)


def test_what_cannot_be_shown_is_one_plain_sentence(
    run: Path, tmp_path: Path, told: type[Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    looker = Looker(str(run), detector="told", device="cpu")

    def said(name: str) -> str:
        seen = looker((tmp_path / name).read_bytes())
        assert seen.faces == []
        return seen.sentence

    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    assert said("broken.jpg") == "This file cannot be shown: not an image."
    (tmp_path / "empty.jpg").touch()
    assert said("empty.jpg") == "This file cannot be shown: the file is empty."
    write_image(tmp_path / "half.jpg", draw_face(1, size=400).image)
    (tmp_path / "half.png").write_bytes((tmp_path / "half.jpg").read_bytes()[:300])
    assert said("half.png").startswith("This file cannot be shown: ")
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    assert said("huge.png") == "This file cannot be shown: it has 81 megapixels; the limit is 80."
    Image.new("1", (20_000, 9_000)).save(tmp_path / "bomb.png")
    assert said("bomb.png").startswith("This file cannot be shown: it has 180 megapixels")
    frames = [Image.new("RGB", (500, 80), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    assert said("moving.webp") == "The file contains several images; only the first is shown. No face was found."
    write_image(tmp_path / "crop.png", draw_face(2, size=64).image)
    assert said("crop.png").endswith("If this is already a face crop, start `fra app` with --detector none.")


# --- what is started


def test_without_model_and_tasks_weights_that_come_with_fra_are_shown() -> None:
    looker = Looker(device="cpu", detector="none")
    assert looker.regions is not None
    found = looker.regions(torch.rand(1, 3, 64, 64))
    assert found.heatmaps.shape == (1, 8, 8, 8)


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main(["app", *map(str, arguments)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_without_its_packages_there_is_a_line_how_to_install_them(
    package: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install -e '.[app]'" in fails(capsys, "--model", run)


def test_what_cannot_be_served_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "choose another --port" in fails(capsys, "--model", run, "--detector", "none", "--port", port)
    assert "from 0 to 65535" in fails(capsys, "--model", run, "--detector", "none", "--port", 99_999)
    assert "has no model.safetensors" in fails(capsys, "--model", tmp_path)
    assert "finished run folder" in fails(capsys, "--task", tmp_path)


# --- the page


def test_the_answer_holds_its_pictures_and_names_are_only_text() -> None:
    tile = torch.zeros(3, 8, 8, dtype=torch.uint8)
    said = [Said("<script>alert(1)</script>", "a & b", [(f"class {place}", 1 / 20) for place in range(20)])]
    face = FaceLook((1, 2, 3), 0.987, (0.1, 0.2, 0.3, 0.4), tile, None, said)
    answers = [{"answers": {"it's": '<script>alert("2")</script>'}}]
    page = serve.html(Look("1 face.", tile, [face], [], answers))
    assert page.count('src="data:image/jpeg;base64,') == page.count("src=") == 2
    assert "it\\u0027s" in page
    assert "http" not in page
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "background: rgb(1, 2, 3)" in page
    assert "detection score 0.99" in page
    assert "<summary>8 more</summary>" in page


def two_faces() -> Look:
    tile = torch.zeros(3, 80, 80, dtype=torch.uint8)
    words = ("first", "second")
    faces = [
        FaceLook((1, 2, 3), 0.9, (0.1 + place / 2, 0.2, 0.3, 0.4), tile, None, [Said("task", f"the {word} face", [])])
        for place, word in enumerate(words)
    ]
    return Look("2 faces.", tile, faces)


def test_the_page_answers_this_machine_only(page: Page) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(page.url, timeout=60) as answer:
        text = answer.read().decode()
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert re.findall("(?:src|href|url)[=(]", text) == ["href="]  # an icon that is empty
    with pytest.raises(urllib.error.HTTPError, match="400"):  # a name of elsewhere that leads here
        direct.open(urllib.request.Request(page.url, headers={"Host": "elsewhere.example"}), timeout=60)
    port = int(page.url.rsplit(":", 1)[1])
    with pytest.raises(OSError):  # noqa: PT011 (refused, or unknown where 127.0.0.2 is no address)
        socket.create_connection(("127.0.0.2", port), timeout=2).close()


def test_a_photo_is_answered_in_a_browser_which_asks_nobody_else_and_none_is_kept(page: Page, tmp_path: Path) -> None:
    write_image(tmp_path / "face.jpg", draw_face(1, size=64).image)
    (tmp_path / "broken.heic").write_bytes(b"not a picture")
    asked: list[str] = []
    complaints: list[str] = []
    with browser() as chromium:
        tab = chromium.new_page(viewport={"width": 390, "height": 800})  # a phone's
        tab.set_default_timeout(120_000)
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(page.url)
        drop = tab.locator("input[type=file]")
        write_image(tmp_path / "other.jpg", draw_face(2, size=64).image)
        names = ["face.jpg", "broken.heic", "other.jpg"]
        drop.set_input_files([tmp_path / name for name in names])
        tab.get_by_text("3 photos analysed.").wait_for()
        assert tab.locator(".look h2").all_inner_texts() == names
        assert tab.locator(".look .sentence").all_inner_texts() == [
            "1 face.", "This file cannot be shown: not an image.", "1 face."
        ]  # fmt: skip
        first = tab.locator(".look").first
        for words in ("glad 70 %", "Smiling, Wearing Hat", "68 points", "strongest region per pixel"):
            assert first.get_by_text(words).is_visible()
        shown = "[...document.querySelectorAll('.tiles img')].map(image => image.complete && image.naturalWidth)"
        assert tab.evaluate(shown) == [TILE, TILE, 5 * TILE] * 2  # the crop, again below its views, and four regions
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        first.locator(".region").evaluate("it => { it.value = 3; it.dispatchEvent(new Event('input')) }")
        assert re.fullmatch(r"region \d", first.locator(".caption").inner_text())
        assert first.locator(".strip").evaluate("it => it.style.left") == "-300%"
        with tab.expect_download() as coming:
            first.get_by_role("button", name="CSV").click()
        (row,) = csv.DictReader(coming.value.path().read_text().splitlines())
        assert (row["photo"], row["feel expression"], float(row["looks Bald"])) == (
            "face.jpg", "glad", pytest.approx(0.2689, abs=1e-3)
        )  # fmt: skip
        assert "synthetic" in tab.locator("footer").inner_text()
        assert left_behind(page) == []
        tab.get_by_role("button", name="Remove all").click()
        assert tab.locator(".look").count() == 0
        tab.route("**/look", lambda route: route.fulfill(body=serve.html(two_faces())))
        drop.set_input_files(tmp_path / "face.jpg")
        sections = tab.locator(".look .face")
        for key, expected in (
            ("", "first"),
            ("ArrowRight", "second"),
            ("ArrowRight", "first"),
            ("ArrowLeft", "second"),
        ):
            if key:
                tab.keyboard.press(key)
            tab.get_by_text(f"the {expected} face").wait_for()
            assert [section.is_visible() for section in sections.all()].count(True) == 1
        tab.get_by_role("button", name="show face 1").click()
        assert tab.get_by_text("the first face").is_visible()
        assert "face 1 of 2" in tab.locator(".choose").inner_text()
    assert asked.count(f"{page.url}/look") == 4
    assert [url for url in asked if not url.startswith((page.url, "data:", "blob:"))] == []
    assert complaints == []


def test_interrupted_it_ends_in_peace_leaves_nothing_and_has_asked_nobody(page: Page) -> None:
    page.process.send_signal(signal.SIGINT)
    assert page.process.wait(timeout=60) == 0
    assert page.errors.read_text() == ""
    assert [path for path in page.temporary.iterdir() if path != page.errors] == []

"""Drawn faces: the same in every process, exact labels, visible expressions and attributes."""

import hashlib
import multiprocessing
import multiprocessing.pool
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fra.data.datasets.synthetic import read, write
from fra.drawing import drawn_face as synthetic
from fra.drawing.drawn_face import ATTRIBUTES, EXPRESSIONS, REGION_NAMES, DrawnFace, draw_face
from fra.drawing.person import MIMICS, Person, person
from fra.runtime import Runtime

COUNT = 105
REGION = {name: index for index, name in enumerate(REGION_NAMES)}

CELEBA = [
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
]


@pytest.fixture(scope="module")
def faces() -> list[DrawnFace]:
    return [draw_face(seed) for seed in range(COUNT)]


@pytest.fixture(scope="module")
def attributes() -> dict[str, torch.Tensor]:
    """A column of 1500 people for each attribute; labels need no painting."""
    table = torch.tensor([synthetic._attributes(person(seed)) for seed in range(1500)])
    return dict(zip(ATTRIBUTES, table.T, strict=True))


def fingerprint(seed: int) -> str:
    face = draw_face(seed, size=64)
    parts = (face.image, face.attributes, face.points98, face.points68, face.five_points, face.regions)
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()


def as_drawn(monkeypatch: pytest.MonkeyPatch, who: Person) -> DrawnFace:
    """The picture of a person made up for a test."""
    monkeypatch.setattr(synthetic, "person", lambda seed: who)
    return draw_face(0)


def plain(**extras: object) -> Person:
    """A frontal, neutral, sharp face without anything on it, apart from `extras`."""
    who = next(p for p in map(person, range(1000)) if p.hair.style == "short" and p.hair.front == "up" and not p.pale)
    nothing = {"beard": "", "mustache": False, "sideburns": False, "makeup": False, "lipstick": False, "rosy": False,
               "bags": False, "glasses": "", "hat": "", "earrings": False, "necklace": False, "necktie": False,
               "occluder": "", "blurry": False}  # fmt: skip
    return replace(who, mimic=MIMICS["neutral"], pose=replace(who.pose, yaw=0.0, pitch=0.0, roll=0.0, centre_x=0.5),
                   build=replace(who.build, gaze=0.0), extras=replace(who.extras, **(nothing | extras)))  # fmt: skip


def best_rate() -> float:
    """Faces a second of processor time, best of three rounds: other processes only ever slow a round down."""
    draw_face(0)
    rates = []
    for start in range(0, 60, 20):
        begin = time.process_time()
        for seed in range(start, start + 20):
            draw_face(seed)
        rates.append(20 / (time.process_time() - begin))
    return max(rates)


@pytest.fixture(scope="module")
def fresh_process() -> Iterator[multiprocessing.pool.Pool]:
    """One spawned process: it shares no memory and, unlike this one, does not check types."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


def test_a_seed_gives_the_same_bits_here_and_in_a_fresh_process(fresh_process: multiprocessing.pool.Pool) -> None:
    here = [fingerprint(seed) for seed in range(4)]
    there = fresh_process.map(fingerprint, [3, 2, 1, 0])
    assert here == there[::-1]
    assert len(set(here)) == 4


def test_drawing_is_fast_enough_to_feed_training(fresh_process: multiprocessing.pool.Pool) -> None:
    assert fresh_process.apply(best_rate) >= 60


def test_drawing_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    first = fingerprint(5)
    torch.rand(3)  # what others draw does not matter either
    after = torch.get_rng_state()
    assert fingerprint(5) == first
    assert torch.equal(torch.get_rng_state(), after)
    assert not torch.equal(before, after)


@pytest.mark.parametrize("size", [32, 64, 96, 128, 200])
def test_every_size_has_the_promised_shapes(size: int) -> None:
    face = draw_face(11, size=size)
    assert face.image.shape == (3, size, size)
    assert face.image.dtype == torch.uint8
    assert face.regions.shape == (size, size)
    assert face.regions.dtype == torch.uint8
    assert face.points68.shape == (68, 2)
    assert face.points98.shape == (98, 2)
    assert face.five_points.shape == (5, 2)
    assert face.attributes.shape == (len(ATTRIBUTES),)
    assert face.attributes.dtype == torch.bool
    assert int(face.regions.max()) < len(REGION_NAMES)


def test_another_size_shows_the_same_person() -> None:
    small, large = draw_face(7, size=64), draw_face(7, size=128)
    assert small.expression == large.expression
    assert torch.equal(small.attributes, large.attributes)
    # pixel x of the small picture covers pixels 2x and 2x + 1 of the large one, whose middle is 2x + 1/2
    torch.testing.assert_close(small.points98 * 2 + 0.5, large.points98, atol=1e-4, rtol=0)
    halved = torch.nn.functional.avg_pool2d(large.image.float()[None], 2)[0]
    assert (halved - small.image).abs().mean() < 12


def test_attribute_names_are_celebas_in_celebas_order() -> None:
    places = [CELEBA.index(name) for name in ATTRIBUTES]
    assert places == sorted(set(places))
    assert len(places) >= 30


def test_expressions_are_named_in_rafdb_order_and_all_occur(faces: list[DrawnFace]) -> None:
    assert EXPRESSIONS == ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
    counts = np.bincount([face.expression for face in faces], minlength=7)
    # expected 105/7 = 15 of each, standard deviation 3.6: below 4 is more than three deviations away
    assert counts.min() >= 4, counts


def test_every_attribute_is_neither_rare_nor_universal(attributes: dict[str, torch.Tensor]) -> None:
    shares = {name: column.float().mean().item() for name, column in attributes.items()}
    assert all(0.05 < share < 0.75 for share in shares.values()), shares


def test_attributes_do_not_contradict_each_other(attributes: dict[str, torch.Tensor]) -> None:
    colours = sum(attributes[f"{name}_Hair"].int() for name in ("Black", "Blond", "Brown", "Gray"))
    assert int(colours.max()) == 1
    bald = attributes["Bald"]
    for name in ("Bangs", "Receding_Hairline", "Straight_Hair", "Wavy_Hair", "Wearing_Hat", "Black_Hair", "Blond_Hair"):
        assert not (bald & attributes[name]).any(), name
    for name in ("Goatee", "Mustache", "5_o_Clock_Shadow"):
        assert not (attributes["No_Beard"] & attributes[name]).any(), name
    assert not (attributes["Straight_Hair"] & attributes["Wavy_Hair"]).any()
    assert not (attributes["Chubby"] & attributes["Oval_Face"]).any()
    assert not (attributes["Heavy_Makeup"] & ~attributes["Wearing_Lipstick"]).any()


def test_the_face_fills_the_picture_like_a_detector_crop(faces: list[DrawnFace]) -> None:
    heights = torch.tensor([float(f.points98[16, 1] - f.points98[33:51, 1].mean()) / 128 for f in faces])
    assert 0.52 < heights.median() < 0.62
    points = torch.stack([face.points98 for face in faces])
    assert points.min() > 0
    assert points.max() < 127


def test_68_and_98_points_agree_where_both_have_them(faces: list[DrawnFace]) -> None:
    pairs = {0: 0, 8: 16, 16: 32, 17: 33, 22: 42, 26: 46, 27: 51, 30: 54, 31: 55, 33: 57, 35: 59, 36: 60, 39: 64,
             42: 68, 45: 72, 48: 76, 51: 79, 54: 82, 57: 85, 60: 88, 64: 92, 66: 94, 67: 95}  # fmt: skip
    for face in faces[:20]:
        assert torch.equal(face.points68[list(pairs)], face.points98[list(pairs.values())])
        assert torch.equal(face.five_points[2:], face.points98[[54, 76, 82]])


def test_the_five_points_are_in_detector_order(faces: list[DrawnFace]) -> None:
    for face in faces:
        left_eye, right_eye, nose, left_mouth, right_mouth = face.five_points.tolist()
        assert left_eye[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert left_eye[1] < nose[1] < max(left_mouth[1], right_mouth[1])


def test_a_frontal_face_is_its_own_mirror_image() -> None:
    model = synthetic.wire_model(plain())
    project = synthetic.Projection(plain(), model, size=128)
    points = synthetic.landmarks98(project.each(model))
    # WFLW: contour i and 32 - i, outer brow tips 33 and 46, eye corners 60 and 72, 64 and 68, mouth corners 76 and 82
    pairs = [(i, 32 - i) for i in range(17)] + [(33, 46), (34, 45), (37, 42), (38, 50), (41, 47), (55, 59), (60, 72),
             (61, 71), (64, 68), (65, 75), (67, 73), (76, 82), (77, 81), (83, 87), (88, 92), (89, 91),
             (93, 95), (96, 97)]  # fmt: skip
    for a, b in pairs:
        assert np.allclose(points[a, 0] - project.centre[0], project.centre[0] - points[b, 0], atol=1e-9), (a, b)
        assert np.allclose(points[a, 1], points[b, 1], atol=1e-9), (a, b)


def test_landmarks_lie_in_the_regions_they_name(faces: list[DrawnFace]) -> None:
    # the picture's left eye, 60-67, is the subject's right one
    groups = {"right_eye": slice(60, 68), "left_eye": slice(68, 76), "mouth": slice(76, 88), "nose": slice(53, 55),
              "right_brow": [35, 40], "left_brow": [44, 48]}  # fmt: skip
    covers = {REGION[name] for name in ("hair", "glasses", "hat", "occluder")}
    for name, part in groups.items():
        seen = []
        for face in faces:
            x, y = face.points98[part].mean(0).round().int().tolist()
            label = int(face.regions[y, x])
            if label not in covers:
                seen.append(label == REGION[name])
        assert len(seen) > COUNT / 2, name
        assert all(seen), (name, len(seen), sum(seen))


def test_region_centres_match_the_landmarks_to_half_a_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    face = as_drawn(monkeypatch, plain())
    for name, part in (("right_eye", slice(60, 68)), ("left_eye", slice(68, 76)), ("mouth", slice(76, 88))):
        rows, columns = torch.nonzero(face.regions == REGION[name], as_tuple=True)
        low, high = face.points98[part].min(0).values, face.points98[part].max(0).values
        # mask and landmarks span the same width; rounding moves an edge by at most one pixel
        assert abs(columns.min() - low[0]) <= 1
        assert abs(columns.max() - high[0]) <= 1, name
        assert abs(rows.min() - low[1]) <= 1.5
        assert abs(rows.max() - high[1]) <= 1.5, name


def test_landmarks_lie_on_the_painted_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    who = replace(plain(lipstick=True), tone=0.15)
    face = as_drawn(monkeypatch, who)
    image = face.image.float()
    for x, y in face.points98[96:98].round().int().tolist():
        assert image[:, y, x].mean() < 90, "pupils are dark"
    lips = (face.regions == REGION["mouth"]).numpy()
    red = (image[0] - image[1]).numpy()
    skin = (face.regions == REGION["skin"]).numpy()
    assert red[lips].mean() > red[skin].mean() + 40


def test_happy_mouths_curve_up_and_sad_ones_down(faces: list[DrawnFace]) -> None:
    def lift(name: str) -> float:
        mine = [face for face in faces if EXPRESSIONS[face.expression] == name]
        # height of the corners over the middle of the inner lips (y grows downwards), in mouth widths
        points = torch.stack([face.points98 for face in mine])
        rise = points[:, [90, 94], 1].mean(1) - points[:, [76, 82], 1].mean(1)
        return float((rise / (points[:, 82] - points[:, 76]).norm(dim=1)).mean())

    assert lift("happiness") > 0.1
    assert lift("sadness") < -0.1


def test_surprise_opens_eyes_and_mouth_and_anger_lowers_the_brows(faces: list[DrawnFace]) -> None:
    def mean(name: str, a: list[int], b: list[int]) -> float:
        mine = [face.points98 for face in faces if EXPRESSIONS[face.expression] == name]
        return float(torch.stack([(p[b].mean(0) - p[a].mean(0)).norm() for p in mine]).mean())

    assert mean("surprise", [62, 70], [66, 74]) > 1.3 * mean("neutral", [62, 70], [66, 74])
    assert mean("surprise", [90], [94]) > 3 * mean("neutral", [90], [94])
    assert mean("anger", [38, 50], [64, 68]) < 0.75 * mean("neutral", [38, 50], [64, 68])
    assert mean("fear", [37, 42], [64, 68]) > 1.2 * mean("neutral", [37, 42], [64, 68])


@pytest.mark.parametrize(
    ("extras", "place"),
    [
        ({"glasses": "round"}, "eyes"),
        ({"beard": "goatee"}, "chin"),
        ({"beard": "shadow"}, "chin"),
        ({"mustache": True}, "upper lip"),
        ({"lipstick": True}, "mouth"),
        ({"rosy": True}, "cheeks"),
        ({"bags": True}, "eyes"),
        ({"sideburns": True}, "sides"),
        ({"necklace": True}, "neck"),
        ({"necktie": True}, "neck"),
        ({"earrings": True}, "sides"),
        ({"hat": "beanie"}, "top"),
    ],
)  # fmt: skip
def test_an_attribute_changes_its_place_in_the_picture(
    monkeypatch: pytest.MonkeyPatch, extras: dict[str, object], place: str
) -> None:
    without, face = as_drawn(monkeypatch, plain()), as_drawn(monkeypatch, plain(**extras))
    points = without.points98
    boxes = {
        "eyes": (points[60:76].min(0).values - 6, points[60:76].max(0).values + 6),
        "chin": (torch.stack([points[76, 0], points[85, 1] + 2]), torch.stack([points[82, 0], points[16, 1]])),
        "upper lip": (torch.stack([points[76, 0], points[57, 1]]), torch.stack([points[82, 0], points[79, 1] + 1])),
        "mouth": (points[76:88].min(0).values, points[76:88].max(0).values),
        "cheeks": (torch.stack([points[4, 0], points[66, 1] + 4]), torch.stack([points[28, 0], points[77, 1]])),
        "sides": (torch.stack([points[2, 0] - 12, points[0, 1]]), torch.stack([points[30, 0] + 12, points[6, 1]])),
        "neck": (torch.tensor([20.0, 108.0]), torch.tensor([107.0, 127.0])),
        "top": (torch.tensor([30.0, 0.0]), torch.tensor([97.0, 30.0])),
    }
    (left, top), (right, bottom) = boxes[place][0].int().tolist(), boxes[place][1].int().tolist()
    change = (face.image.float() - without.image.float()).abs()
    inside = change[:, max(top, 0) : bottom + 1, max(left, 0) : right + 1]
    assert (inside.amax(0) > 20).sum() >= 25, "hardly visible"
    assert torch.equal(face.points98, points)


def test_glasses_and_hat_appear_in_the_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, extras in {
        "glasses": {"glasses": "square"},
        "hat": {"hat": "cap"},
        "occluder": {"occluder": "hand"},
    }.items():
        assert (as_drawn(monkeypatch, plain()).regions == REGION[name]).sum() == 0
        assert (as_drawn(monkeypatch, plain(**extras)).regions == REGION[name]).sum() > 100, name


def test_pictures_vary_in_skin_background_and_pose(faces: list[DrawnFace]) -> None:
    def brightness(face: DrawnFace, region: str) -> float:
        return float(face.image.numpy()[:, face.regions.numpy() == REGION[region]].mean())

    skins = torch.tensor([brightness(face, "skin") for face in faces])
    assert skins.min() < 75
    assert skins.max() > 190
    assert torch.tensor([brightness(face, "background") for face in faces]).std() > 20
    # the nose tip moves against the middle between the outer eye corners when the head turns
    turn = torch.tensor([float((f.points98[54] - f.points98[[60, 72]].mean(0))[0]) for f in faces])
    assert turn.min() < -6
    assert turn.max() > 6


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        draw_face(-1)


# --- as a dataset


def test_resume_leaves_the_same_faces_alone_and_refuses_others(tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    write(out, 10, size=32, seed=1, runtime=Runtime(resume=True))
    before = (out / "labels.csv").stat()
    write(out, 10, size=32, seed=1, runtime=Runtime(resume=True))
    assert (out / "labels.csv").stat() == before
    for count, size, seed in ((11, 32, 1), (10, 48, 1), (10, 32, 2)):
        with pytest.raises(ValueError, match="different count, size or seed"):
            write(out, count, size=size, seed=seed, runtime=Runtime(resume=True))
    with pytest.raises(ValueError, match="is not empty"):
        write(out, 10, size=32, seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file.txt").touch()
    with pytest.raises(ValueError, match="is not empty"):
        write(tmp_path / "mine", 10, size=32, runtime=Runtime(resume=True))


def test_a_damaged_folder_of_drawn_faces_is_one_clear_line(tmp_path: Path) -> None:
    write(tmp_path / "drawn", 10, size=32)
    labels, points = tmp_path / "drawn/labels.csv", tmp_path / "drawn/landmarks.npz"
    text = labels.read_text()
    for content in ("", text.splitlines()[0], "name,age\nx.jpg,3\n"):
        labels.write_text(content)
        with pytest.raises(ValueError, match=r"labels\.csv lists no drawn faces"):
            read(tmp_path / "drawn")
    labels.write_text(text.replace("train,", "train,very ", 1))
    with pytest.raises(ValueError, match=r"labels\.csv says that 000000\.jpg shows 'very .*: expected one of surprise"):
        read(tmp_path / "drawn")
    labels.write_text(text)
    for content in (b"", points.read_bytes()[:100]):
        points.write_bytes(content)
        with pytest.raises(ValueError, match=r"landmarks\.npz is (missing|damaged)"):
            read(tmp_path / "drawn")
    points.unlink()
    with pytest.raises(ValueError, match=r"landmarks\.npz is (missing|damaged)"):
        read(tmp_path / "drawn")

"""Small downloads with landmarks, in every layout that is read: random points as faces, each in a photo of its own."""

from pathlib import Path

import h5py
import numpy as np
from PIL import Image

WIDTH, HEIGHT = 90, 70
WFLW_TABLE = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{}.txt"
WFLW_SUBSETS = ("largepose", "expression", "illumination", "makeup", "occlusion", "blur")


def shape(seed: int, count: int) -> np.ndarray:
    """Landmarks (count, 2) in pixels from 0, to a hundredth, in a box about as high as wide; no two alike."""
    draw = np.random.default_rng(seed)
    return np.round(draw.uniform((30, 15), (65, 50), (count, 2)), 2)


def picture(seed: int) -> np.ndarray:
    """Unlike that of any other seed: patches of random colours."""
    patches = np.random.default_rng(1000 + seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(patches).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def put_photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(path)


def put_text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))


def words(values: np.ndarray) -> list[str]:
    return [f"{value:g}" for value in values.ravel()]


def put_pts(root: Path, name: str, seed: int) -> None:
    """300-W's own form, counted from 1."""
    put_photo(root / f"{name}.jpg", seed)
    points = [" ".join(words(point)) for point in shape(seed, 68) + 1]
    put_text(root / f"{name}.pts", "version: 1", "n_points:  68", "{", *points, "}")


def hrnet_row(name: str, seed: int, count: int, *, shift: float = 0.0, box_size: float | None = None) -> str:
    """A line of HRNet's .csv; scale and centre are not those of the landmarks, to tell them apart."""
    sized = [] if box_size is None else [f"{box_size:g}"]
    values = words(shape(seed, count) + shift)
    return ",".join([name, "0.25", *sized, f"{45 + shift:g}", f"{30 + shift:g}", *values])


def hrnet_heading(count: int, *, sized: bool = False) -> str:
    places = [f"original_{i}_{axis}" for i in range(count) for axis in "xy"]
    return ",".join(["image_name", "scale", *(["box_size"] if sized else []), "center_w", "center_h", *places])


def star_row(name: str, seed: int, count: int, flags: str = "") -> str:
    """A line of STAR's .tsv."""
    five, points = "1,2,3,4,5,6,7,8,9,10", ",".join(words(shape(seed, count)))
    return "\t".join([name, five, points, "0.2", "46", "31", *([flags] if flags else [])])


W300 = {  # file name → split, seed; in the order of the .pts reader
    "afw/1_1": ("train", 0),
    "helen/trainset/2_1": ("train", 1),
    "lfpw/trainset/image_0003": ("train", 2),
    "helen/testset/4_1": ("test", 3),
    "helen/testset/5_1": ("test", 4),
    "ibug/image_092 _01": ("test", 5),
}


def put_300w_pts(root: Path) -> Path:
    for name, (_, seed) in W300.items():
        put_pts(root, name, seed)
    return root


def put_300w_csv(root: Path, *, parts: bool = False) -> Path:
    """HRNet's lists, whose coordinates are two pixels larger and whose spelling has no blank."""
    for name, (_, seed) in W300.items():
        put_photo(root / "images" / f"{name}.jpg", seed)
    rows = {name: hrnet_row(f"{name.replace(' ', '')}.jpg", seed, 68, shift=2) for name, (_, seed) in W300.items()}
    test = {name: row for name, row in rows.items() if W300[name][0] == "test"}
    lists = {"train": [row for name, row in rows.items() if name not in test]}
    if parts:
        lists["valid_common"] = [row for name, row in test.items() if "ibug" not in name]
        lists["valid_challenge"] = [row for name, row in test.items() if "ibug" in name]
    else:
        lists["valid"] = list(test.values())
    for split, lines in lists.items():
        put_text(root / f"face_landmarks_300w_{split}.csv", hrnet_heading(68), *lines)
    return root


def put_300w_tsv(root: Path) -> Path:
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for name, (split, seed) in W300.items():
        put_photo(root / "images" / f"{name}.jpg", seed)
        lines[split].append(star_row(f"./rawImages/{name}.jpg", seed, 68))
    for split, rows in lines.items():
        put_text(root / f"annotations/300W/{split}.tsv", *rows)
    return root


WFLW = {"train": {"0--A/a.jpg": (10, "000000"), "1--B/b.jpg": (11, "100001")},
        "test": {"0--A/c.jpg": (12, "110000"), "1--B/d.jpg": (13, "000101"), "1--B/e.jpg": (14, "000000")}}  # fmt: skip
RECTANGLE = (20, 10, 70, 40)


def put_wflw_photos(folder: Path) -> None:
    for faces in WFLW.values():
        for name, (seed, _) in faces.items():
            put_photo(folder / name, seed)


def put_wflw(root: Path) -> Path:
    put_wflw_photos(root / "WFLW_images")
    for split, faces in WFLW.items():
        rows = [
            " ".join([*words(shape(seed, 98)), *map(str, RECTANGLE), *flags, name])
            for name, (seed, flags) in faces.items()
        ]
        put_text(root / WFLW_TABLE.format(split), *rows)
    return root


def put_wflw_csv(root: Path, *, subsets: bool = True) -> Path:
    put_wflw_photos(root / "images")
    for split, faces in WFLW.items():
        rows = [hrnet_row(name, seed, 98) for name, (seed, _) in faces.items()]
        put_text(root / f"face_landmarks_wflw_{split}.csv", hrnet_heading(98), *rows)
    for number, subset in enumerate(WFLW_SUBSETS if subsets else ()):
        rows = [hrnet_row(name, seed, 98) for name, (seed, flags) in WFLW["test"].items() if flags[number] == "1"]
        put_text(root / f"face_landmarks_wflw_test_{subset}.csv", hrnet_heading(98), *rows)
    return root


def put_wflw_tsv(root: Path) -> Path:
    put_wflw_photos(root / "images")
    for split, faces in WFLW.items():
        rows = [star_row(name, seed, 98, ",".join(flags)) for name, (seed, flags) in faces.items()]
        put_text(root / f"{split}.tsv", *rows)
    return root


COFW = {"train": (20, 21), "test": (22,)}


def put_cofw(root: Path, *, below: str = "") -> Path:
    """MATLAB 7.3: arrays transposed, pictures behind references; the second one is grey."""
    for split, seeds in COFW.items():
        letters, path = {"train": "Tr", "test": "T"}[split], root / below / f"COFW_{split}_color.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            cells = file.create_dataset(f"Is{letters}", (1, len(seeds)), dtype=h5py.ref_dtype)
            for number, seed in enumerate(seeds):
                values = picture(seed)[:, :, 0] if seed == 21 else picture(seed)
                cells[0, number] = file.create_dataset(f"#refs#/{number}", data=values.T).ref
            points = [shape(seed, 29) for seed in seeds]
            hidden = np.zeros(29)
            file[f"phis{letters}"] = np.array([[*p[:, 0], *p[:, 1], *hidden] for p in points]).T
            file[f"bboxes{letters}"] = np.array([(20, 10, 50, 30)] * len(seeds), dtype=float).T  # x y width height
    return root


def put_cofw_tsv(root: Path) -> Path:
    for split, seeds in COFW.items():
        for seed in seeds:
            put_photo(root / f"images/{seed}.png", seed)
        put_text(root / f"annotations/{split}.tsv", *(star_row(f"{seed}.png", seed, 29) for seed in seeds))
    return root


AFLW = {"0/image1.jpg": 30, "2/image2.jpg": 31, "3/image3.jpg": 32, "0/image4.jpg": 33}
AFLW_BOX = (25.0, 65.0, 15.0, 45.0)  # left right top bottom: 40 wide, 30 high
AFLW_ORDER = (3, 1, 4, 2)  # counted from 1: the 3rd and the 1st train if two do
AFLW_FRONTAL = "2/image2.jpg"


def put_aflw(root: Path) -> Path:
    from scipy.io import savemat

    for name, seed in AFLW.items():
        put_photo(root / "data/flickr" / name, seed)
    names = np.empty((4, 1), dtype=object)
    names[:, 0] = list(AFLW)
    visible = np.ones((4, 19))
    for number, name in enumerate(AFLW):
        visible[number, 0] = name == AFLW_FRONTAL
    points = [shape(seed, 19) for seed in AFLW.values()]
    savemat(
        root / "AFLWinfo_release.mat",
        {
            "nameList": names,
            "bbox": np.array([AFLW_BOX] * 4),
            "data": np.array([[*p[:, 0], *p[:, 1]] for p in points]),
            "mask_new": visible,
            "ra": np.array([AFLW_ORDER], dtype=float),
        },
    )
    return root


def put_aflw_csv(root: Path) -> Path:
    """The same faces and splits; the box has only one size, the root of 40 x 30."""
    names = [list(AFLW)[number - 1] for number in AFLW_ORDER]
    for name in names:
        put_photo(root / "images" / name, AFLW[name])
    for split, some in {"train": names[:2], "test": names[2:], "test_frontal": [AFLW_FRONTAL]}.items():
        rows = [hrnet_row(name, AFLW[name], 19, box_size=1200**0.5) for name in some]
        put_text(root / f"face_landmarks_aflw_{split}.csv", hrnet_heading(19, sized=True), *rows)
    return root

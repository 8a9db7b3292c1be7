"""Lists, tables and annotations that others wrote: whatever is wrong in them, the file is named in one line."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import h5py
import landmark_miniatures as landmarks
import numpy as np
import pytest
import torch

from fra.data.check import check
from fra.data.datasets import DATASETS, affectnet, fairface, ferplus
from fra.pretrain.health import read_pairs
from fra.runtime import Runtime
from fra.system.text import SHOWN, lines_of, rows_of, shown

RAF = "EmoLabel/list_patition_label.txt"


def put(root: Path, name: str, *lines: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def put_rafdb(root: Path) -> None:
    put(root, RAF, "train_00001.jpg 5", "train_00002.jpg 1", "test_0001.jpg 4")


def put_celeba(root: Path) -> None:
    put(root, "list_attr_celeba.txt", "2", "Smiling Young", "000001.jpg -1  1", "000002.jpg  1 -1")
    put(root, "list_eval_partition.txt", "000001.jpg 0", "000002.jpg 2")


def put_celeba_csv(root: Path) -> None:
    put(root, "list_attr_celeba.csv", "image_id,Smiling,Young", "000001.jpg,-1,1", "000002.jpg,1,-1")
    put(root, "list_eval_partition.csv", "image_id,partition", "000001.jpg,0", "000002.jpg,2")


def put_affectnet(root: Path) -> None:
    heading = affectnet.HEADING.replace(" ", ",")
    for name in ("training.csv", "validation.csv"):
        put(root, name, heading, "1/a.jpg,1,2,30,40,1;2;3,3,0.1,0.2")


def put_fairface(root: Path) -> None:
    for name, file in (("train", "train/1.jpg"), ("val", "val/1.jpg")):
        row = f"{file},50-59,Male,East Asian,True"
        put(root, f"fairface_label_{name}.csv", "file,age,gender,race,service_test", row)


def put_ferplus(root: Path) -> None:
    heading = ",".join(["Usage", "Image name", *ferplus.VOTES])
    usages = ("Training", "PublicTest", "PrivateTest")
    rows = [f"{usage},fer{n:07d}.png,4,0,0,1,3,2,0,0,0,0" for n, usage in enumerate(usages)]
    put(root, "fer2013new.csv", heading, *(row.replace("4,0,0,1,3,2", "10,0,0,0,0,0") for row in rows))
    pixels = " ".join(["7"] * 48 * 48)
    put(root, "fer2013.csv", "emotion,pixels,Usage", *(f"0,{pixels},{usage}" for usage in usages))


def put_ferplus_folders(root: Path) -> None:
    for name in ferplus.FOLDERS.values():
        put(root, f"{name}/label.csv", 'fer0000000.png,"(0, 0, 48, 48)",10,0,0,0,0,0,0,0,0,0')


LAYOUTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "rafdb": ("rafdb", put_rafdb),
    "celeba": ("celeba", put_celeba),
    "celeba csv": ("celeba", put_celeba_csv),
    "affectnet": ("affectnet7", put_affectnet),
    "fairface": ("fairface", put_fairface),
    "ferplus": ("ferplus", put_ferplus),
    "ferplus folders": ("ferplus", put_ferplus_folders),
    "300w pts": ("300w", landmarks.put_300w_pts),
    "300w csv": ("300w", landmarks.put_300w_csv),
    "300w tsv": ("300w", landmarks.put_300w_tsv),
    "wflw": ("wflw", landmarks.put_wflw),
    "wflw csv": ("wflw", landmarks.put_wflw_csv),
    "cofw tsv": ("cofw", landmarks.put_cofw_tsv),
    "aflw csv": ("aflw", landmarks.put_aflw_csv),
}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "utf-16": lambda text: text.decode().encode("utf-16"),
    "utf-16 big": lambda text: b"\xfe\xff" + text.decode().encode("utf-16-be"),
    "utf-16 without a mark": lambda text: text.decode().encode("utf-16-le"),
    "utf-32": lambda text: text.decode().encode("utf-32"),
    "latin-1 first": lambda text: "# Größe\n".encode("latin-1") + text,
    "latin-1 last": lambda text: text + "é\n".encode("latin-1"),
    "nul bytes": lambda text: text[: len(text) // 2] + b"\0\0" + text[len(text) // 2 :],
}


def text_files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix in (".txt", ".csv", ".tsv", ".pts"))


def refusal(name: str, root: Path) -> str:
    """The one line with which a reader refuses a folder."""
    with pytest.raises(ValueError, match="^[^\\n]+$") as caught:
        DATASETS[name].read(root)
    assert not isinstance(caught.value, UnicodeError)
    return str(caught.value)


@pytest.mark.parametrize(("name", "make"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_list_in_another_encoding_is_named(name: str, make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path)
    DATASETS[name].read(tmp_path)
    for path in text_files(tmp_path)[:4]:
        whole = path.read_bytes()
        for damage, change in DAMAGES.items():
            if path.name == "fer2013.csv" and damage in ("latin-1 last", "nul bytes"):
                continue  # 300 MB of pixels are not read before a picture is asked for
            path.write_bytes(change(whole))
            said = refusal(name, tmp_path)
            assert str(path) in said, damage
            assert "expected UTF-8" in said, damage
        path.write_bytes(whole)
    assert len(DATASETS[name].read(tmp_path).files) >= 1


@pytest.mark.parametrize("layout", ["rafdb", "300w pts", "celeba csv", "wflw"])
def test_the_verdict_on_a_download_names_it_too(layout: str, tmp_path: Path) -> None:
    name, make = LAYOUTS[layout]
    make(tmp_path)
    path = text_files(tmp_path)[0]
    path.write_bytes(DAMAGES["utf-16"](path.read_bytes()))
    faces, faults = check(name, tmp_path, runtime=Runtime(quiet=True))
    assert faces is None
    assert str(path) in faults[0].what
    assert "expected UTF-8" in faults[0].what


@pytest.mark.parametrize("layout", ["rafdb", "300w pts", "fairface", "ferplus", "cofw tsv"])
def test_a_pipe_in_place_of_a_list_is_refused_at_once(layout: str, tmp_path: Path) -> None:
    name, make = LAYOUTS[layout]
    make(tmp_path)
    path = text_files(tmp_path)[0]
    path.unlink()
    os.mkfifo(path)
    assert f"{path} is not a regular file" in refusal(name, tmp_path)


@pytest.mark.parametrize("end", ["\r\n", "\n\n", " \n", "\t\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("layout", ["rafdb", "celeba", "celeba csv", "fairface", "300w pts", "wflw", "aflw csv"])
def test_line_ends_blank_lines_and_a_mark_change_nothing(layout: str, mark: str, end: str, tmp_path: Path) -> None:
    name, make = LAYOUTS[layout]
    make(tmp_path)
    before = DATASETS[name].read(tmp_path)
    for path in text_files(tmp_path):
        path.write_bytes((mark + path.read_text(encoding="utf-8").replace("\n", end)).encode())
    after = DATASETS[name].read(tmp_path)
    assert after.files == before.files
    assert all(torch.equal(after.targets[task], before.targets[task]) for task in before.targets)


@pytest.mark.parametrize("blank", ["\t", "  ", " \t ", "\xa0", "\u2003", "\u3000"])
def test_any_blanks_part_name_and_label(blank: str, tmp_path: Path) -> None:
    put(tmp_path, RAF, *(f"{blank}{name}{blank}{label}{blank}" for name, label in
                         [("train_00001.jpg", 5), ("test_0001.jpg", 4)]))  # fmt: skip
    faces = DATASETS["rafdb"].read(tmp_path)
    assert faces.files == ["train_00001_aligned.jpg", "test_0001_aligned.jpg"]
    assert faces.targets["expression"].tolist() == [4, 3]


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("train_00001.jpg\u200b5", "'train_00001.jpg\\u200b5'"),
        ("train_00001.jpg\t8", "'train_00001.jpg\\t8'"),
        ("train_00001.jpg\xa00", "'train_00001.jpg\\xa00'"),
        ("train_00001.jpg \u202e5", "'train_00001.jpg \\u202e5'"),
        ("train_00001.jpg 5\x1b[31m", "'train_00001.jpg 5\\x1b[31m'"),
        ("train 00001.jpg 5", "'train 00001.jpg 5'"),
        ("train_00001.jpg;5", "'train_00001.jpg;5'"),
    ],
)
def test_an_error_shows_what_cannot_be_seen(line: str, seen: str, tmp_path: Path) -> None:
    put(tmp_path, RAF, "train_00001.jpg 5", line)
    said = refusal("rafdb", tmp_path)
    assert f"line 2 of {tmp_path / RAF} is {seen}" in said
    assert said.isprintable()


def test_text_is_shown_short_and_without_its_line_end() -> None:
    assert shown("a\tb\r\n") == "a\\tb"
    assert shown(["a", "b\x00"]) == "a,b\\x00"
    assert shown("größe ± 日本") == "größe ± 日本"
    assert shown("x" * 200) == "x" * (SHOWN - 4) + " ..."
    assert shown(os.fsdecode(b"\xe9.jpg")) == "\\udce9.jpg"


def test_quotes_are_understood_wherever_there_is_csv(tmp_path: Path) -> None:
    put(tmp_path / "a", "list_attr_celeba.csv", '"image_id","Smiling","Young"', '"a, b.jpg","-1","1"', '"c""d.jpg",1,1')
    put(tmp_path / "a", "list_eval_partition.csv", "image_id,partition", '"a, b.jpg","0"', '"c""d.jpg",2')
    assert DATASETS["celeba"].read(tmp_path / "a").files == ["a, b.jpg", 'c"d.jpg']
    put(tmp_path / "b", "labels.csv", '"path",age,gender,race',
        *(f'"0{n}/a, b.jpg","3-9",Male,"East Asian"' for n in range(3)))  # fmt: skip
    assert fairface.read(tmp_path / "b").files[0] == "00/a, b.jpg"
    row = landmarks.hrnet_row('"a, b.jpg"', 1, 19, box_size=30)
    for split in ("train", "test", "test_frontal"):
        put(tmp_path / "c", f"face_landmarks_aflw_{split}.csv", landmarks.hrnet_heading(19, sized=True), row)
    assert DATASETS["aflw"].read(tmp_path / "c").files == ["a, b.jpg", "a, b.jpg"]


@pytest.mark.parametrize("layout", ["celeba csv", "affectnet", "fairface", "ferplus", "aflw csv", "300w csv"])
@pytest.mark.parametrize("tail", ['"a.jpg,1,2', 'a"b,"c" d,1', '"' + "x" * 140_000])
def test_quotes_that_do_not_close_are_named_with_their_line(layout: str, tail: str, tmp_path: Path) -> None:
    name, make = LAYOUTS[layout]
    make(tmp_path)
    path = text_files(tmp_path)[0] if layout != "ferplus" else tmp_path / "fer2013new.csv"
    before = path.read_text()
    path.write_text(before + tail + "\n")
    said = refusal(name, tmp_path)
    assert f"of {path} is not valid CSV" in said
    assert f"line {before.count(chr(10)) + 1} " in said


def test_rows_and_lines_carry_their_places(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'a,b\r\n\r\n"1\n2",3\r\n')
    assert list(rows_of(tmp_path / "t.csv")) == [(1, ["a", "b"]), (4, ["1\n2", "3"])]
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfa\rb\r\nc")
    assert list(lines_of(tmp_path / "t.txt")) == ["a\n", "b\n", "c"]
    (tmp_path / "t.txt").write_bytes(b"a\n" * 3 + b"\xe9\n")
    with pytest.raises(ValueError, match=r"t\.txt is not UTF-8 text \(byte 0xe9 about line 4\)"):
        list(lines_of(tmp_path / "t.txt"))


def test_pairs_of_lfw_are_read_like_every_list(tmp_path: Path) -> None:
    landmarks.put_photo(tmp_path / "A_B/A_B_0001.jpg", 1)
    landmarks.put_photo(tmp_path / "A_B/A_B_0002.jpg", 2)
    landmarks.put_photo(tmp_path / "C/C_0001.jpg", 3)
    pairs = tmp_path / "pairsDevTest.txt"
    pairs.write_text("1\nA_B\t1\t2\n\nA_B\xa01  C 1\n", encoding="utf-8")
    assert read_pairs(tmp_path, 8).same.tolist() == [True, False]
    for line, message in (("A_B one two", "expected 'Name 1 2'"), ("A_B 1", "line 2"), ("A B C 1 2", "line 2")):
        pairs.write_text(f"1\n{line}\n")
        with pytest.raises(ValueError, match=message):
            read_pairs(tmp_path, 8)
    pairs.write_bytes("1\nA_B 1 2\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"pairsDevTest\.txt is not UTF-8"):
        read_pairs(tmp_path, 8)


def put_lfwa(root: Path) -> None:
    def texts(file: h5py.File, name: str, words: list[str]) -> None:
        cells = file.create_dataset(name, (1, len(words)), dtype=h5py.ref_dtype)
        for number, word in enumerate(words):
            values = np.array([[ord(sign)] for sign in word], dtype=np.uint16)
            cells[0, number] = file.create_dataset(f"#refs#/{name}{number}", data=values).ref

    with h5py.File(root / "lfw_att_40.mat", "w") as file:
        texts(file, "AttrName", ["Smiling", "Young"])
        texts(file, "name", ["A\\A_0001.jpg", "B\\B_0001.jpg"])
        file["label"] = np.array([[1.0, 0.0], [0.0, 1.0]])
    with h5py.File(root / "indices_train_test.mat", "w") as file:
        file["indices_img_train"], file["indices_img_test"] = np.array([[1.0]]), np.array([[2.0]])


MATLAB: dict[str, Callable[[Path], object]] = {
    "cofw": landmarks.put_cofw,
    "aflw": landmarks.put_aflw,
    "lfwa": put_lfwa,
}


@pytest.mark.parametrize(("name", "make"), MATLAB.items(), ids=MATLAB.keys())
def test_a_damaged_matlab_file_is_one_line_with_its_name(
    name: str, make: Callable[[Path], object], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    make(tmp_path)
    DATASETS[name].read(tmp_path)
    draw = random.Random(0)
    for path in sorted(tmp_path.rglob("*.mat")):
        whole = path.read_bytes()
        cut = [whole[: len(whole) * part // 8] for part in ((1, 7) if name == "aflw" else range(8))]
        others = [b"<html>not found</html>", "Größe".encode("utf-16"), b"\x89HDF\r\n\x1a\n", b"MATLAB 5.0 MAT-file" * 9]
        for damaged in (*cut, *others, whole[:100] + b"\0" * 400 + whole[500:]):
            path.write_bytes(damaged)
            assert str(path) in refusal(name, tmp_path)
        for _ in range(3 if name == "aflw" else 25):  # flipped bits may be harmless
            flipped = bytearray(whole)
            for _ in range(8):
                flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            path.write_bytes(flipped)
            said = ""
            try:
                DATASETS[name].read(tmp_path)
            except ValueError as error:
                said = str(error)
            assert not said or (str(tmp_path) in said and len(said.splitlines()) == 1)
        path.write_bytes(whole)
    assert not recwarn.list


def test_a_damaged_annotation_of_affectnet_is_named(tmp_path: Path) -> None:
    for split in ("train_set", "val_set"):
        (tmp_path / split / "annotations").mkdir(parents=True)
        np.save(tmp_path / split / "annotations/0_exp.npy", np.array("3"))
    assert DATASETS["affectnet7"].read(tmp_path).targets["expression"].tolist() == [3, 3]
    path = tmp_path / "val_set/annotations/0_exp.npy"
    whole = path.read_bytes()
    np.save(tmp_path / "list.npy", np.array([1, 2]))
    np.save(tmp_path / "object.npy", np.array({"a": 1}, dtype=object), allow_pickle=True)
    others = [(tmp_path / name).read_bytes() for name in ("list.npy", "object.npy")]
    for content in (b"", whole[:40], whole[:-4], b"PK\x03\x04", b"text", np.random.default_rng(0).bytes(200), *others):
        path.write_bytes(content)
        assert str(path) in refusal("affectnet7", tmp_path)


@pytest.fixture
def mirrored(tmp_path: Path) -> Path:
    """300-W with a mirrored copy among the training images and one among the test images."""
    landmarks.put_300w_pts(tmp_path)
    landmarks.put_pts(tmp_path, "lfpw/trainset/image_0003_mirror", 50)
    landmarks.put_pts(tmp_path, "ibug/image_092 _01_mirror", 51)
    return tmp_path


def test_mirrored_copies_are_refused_among_test_images(mirrored: Path) -> None:
    message = r"1 of 4 test images listed as mirrored copies .*ibug/image_092 _01_mirror\.jpg.*`fra data check 300w "
    with pytest.raises(ValueError, match=message):
        DATASETS["300w"](mirrored)
    for path in mirrored.glob("ibug/*_mirror.*"):
        path.unlink()
    faces = DATASETS["300w"](mirrored)  # training may use them
    assert (len(faces.splits["train"]), len(faces.splits["test"])) == (4, 3)


def test_mirrored_copies_are_named_by_the_verdict(mirrored: Path) -> None:
    _, faults = check("300w", mirrored, runtime=Runtime(quiet=True))
    found = [(fault.what, fault.where) for fault in faults if "mirrored copies" in fault.what]
    assert found == [
        ("1 of 4 training images listed as mirrored copies of others", ("lfpw/trainset/image_0003_mirror.jpg",)),
        ("1 of 4 test images listed as mirrored copies of others", ("ibug/image_092 _01_mirror.jpg",)),
    ]


@pytest.mark.parametrize("name", ["wflw", "aflw"])
def test_mirrored_copies_of_other_sets_of_landmarks_are_refused_too(name: str, tmp_path: Path) -> None:
    {"wflw": landmarks.put_wflw, "aflw": landmarks.put_aflw_csv}[name](tmp_path)
    for path in text_files(tmp_path):
        path.write_text(
            path.read_text().replace("1--B/d.jpg", "1--B/d_mirror.jpg").replace("image4.jpg", "image4_MIRROR.jpg")
        )
    for path in [*tmp_path.rglob("d.jpg"), *tmp_path.rglob("image4.jpg")]:
        path.rename(path.with_name(f"{path.stem}_{'mirror' if path.stem == 'd' else 'MIRROR'}.jpg"))
    landmark_set = DATASETS[name]
    if not landmark_set.read(tmp_path).mirrored("test"):
        pytest.fail("the copy is not in the test split")
    with pytest.raises(ValueError, match="1 of . test images listed as mirrored copies"):
        landmark_set(tmp_path)

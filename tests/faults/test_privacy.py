"""Nothing is sent: no command looks up a name or sends a packet to another machine, however long it runs."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import no_network
import pytest

import fra
from fra.drawing.drawn_face import draw_face
from fra.faces.image import write_image
from fra.system.telemetry import SWITCHES

SECONDS = (
    75  # that the page and a session are held open; onnxruntime would first ask after six, and five times in these
)
REPORTS_SINCE = (1, 29)  # onnxruntime
# Where one of these is set, onnxruntime takes itself to be tested, and is silent whatever its switch says.
TESTED = ("CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "TRAVIS", "JENKINS_URL", "CODEBUILD_BUILD_ID")
TESTED += ("BUILDKITE", "TEAMCITY_VERSION", "APPVEYOR", "BITBUCKET_BUILD_NUMBER", "ORT_RUNNING_UNIT_TESTS")

STORY = """
"$PYTHON" -m fra.cli app --port 0 --task laptop_age --device cpu > page.txt &
"$PYTHON" session.py &
"$PYTHON" commands.py && "$PYTHON" visit.py
"""
COMMANDS = """
import time
from fra import cli
begin = time.monotonic()
if __name__ == "__main__":  # workers of `fra crop` import this file
    for words in (
        "crop photos --out crops --workers 2",
        "predict photos --task laptop_age --out answers --device cpu",
        "embed photos --out features --device cpu",
        "data synthetic --out drawn --count 16 --size 48 --workers 1",
        "pretrain smoke/resnet10_half.fra --faces drawn/images --out run --workers 1 --set schedule.epochs=1",
        "export run --format onnx --out exported",
        "transfer laptop/synthetic_expression --encoder run --data drawn --out learned --device cpu --set epochs=2",
        "regions run --faces drawn/images --out heatmaps --device cpu",
        "report run learned --out report.html",
    ):
        print(f"{time.monotonic() - begin:.0f} s: fra {words}", flush=True)
        assert cli.main([*words.split(), "--quiet"]) == 0, words
"""
SESSION = f"""
import time
import torch
import fra
from fra.crop.detectors import make_detector
until = time.monotonic() + {SECONDS}
detector, encoder = make_detector("retinaface", min_score=0.6), fra.load_encoder("laptop", quiet=True)
while time.monotonic() < until:
    detector.find_faces(torch.zeros(3, 64, 64, dtype=torch.uint8))
    encoder(torch.rand(1, 3, 64, 64))
    time.sleep(1)
"""
VISIT = f"""
import os, re, time, urllib.request
from pathlib import Path
url = re.search("http://127[^ ]+", Path("page.txt").read_text())[0]
photo = next(Path("photos").iterdir()).read_bytes()
while True:
    assert b"<html" in urllib.request.urlopen(url, timeout=60).read()
    assert b"data:image" in urllib.request.urlopen(url + "/look", data=photo, timeout=60).read()
    if time.time() - os.stat("page.txt").st_mtime > {SECONDS}:
        break
    time.sleep(5)
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """The environment of a person who starts for the first time and has switched nothing off."""
    theirs = (*SWITCHES, *TESTED, "XDG_CACHE_HOME")
    kept = {name: value for name, value in os.environ.items() if name not in theirs}
    proxies = [name for name in kept if name.lower().endswith("_proxy")]
    for name in proxies:  # they would be asked instead
        del kept[name]
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    places = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    root = str(Path(fra.__file__).parents[1])
    return {**kept, **places, "PYTHON": sys.executable, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    if not no_network.permitted():
        pytest.skip("a network of one's own is not permitted here (or unshare or ip is missing): nothing was watched")


def watch(folder: Path, environment: dict[str, str], *command: str, seconds: float = 60) -> no_network.Watched:
    (folder / "records").mkdir()
    return no_network.watch(command, folder / "records", environment=environment, seconds=seconds)


def test_a_look_up_and_what_would_be_sent_are_recorded(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    asks = "import socket; socket.create_connection(('somewhere.example', 443), 2)"
    sends = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('198.51.100.1', 9))"
    script = f'"$PYTHON" -c "{asks}"; "$PYTHON" -c "{sends}"'
    seen = watch(tmp_path, elsewhere, "sh", "-c", script)
    assert seen.questions == ["somewhere.example"]
    assert seen.packets == [f"tcp {no_network.UNUSED}:443", "udp 198.51.100.1:9"]


def test_onnxruntime_would_ask_if_it_were_let(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    """So the next test can fail. It stops as soon as there was a question."""
    import onnxruntime

    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < REPORTS_SINCE:
        pytest.skip(f"onnxruntime {onnxruntime.__version__} reports to nobody")
    record = tmp_path / "records" / "seen.jsonl"
    script = f"""
        import os, time
        import onnxruntime
        for _ in range(120):
            time.sleep(0.5)
            if os.stat({str(record)!r}).st_size:
                break
        """
    seen = watch(tmp_path, elsewhere, sys.executable, "-c", textwrap.dedent(script), seconds=120)
    assert [name for name in seen.questions if name.endswith(".microsoft.com")], seen.output
    assert list((tmp_path / "home").rglob("deviceid"))


def test_no_command_asks_or_sends_anything(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(2):
        write_image(tmp_path / "photos" / f"{number}.jpg", draw_face(number, size=256).image)
    (tmp_path / "session.py").write_text(SESSION)
    (tmp_path / "visit.py").write_text(VISIT)
    (tmp_path / "commands.py").write_text(COMMANDS)
    seen = watch(tmp_path, elsewhere, "bash", "-c", f"cd {tmp_path}\n{STORY}", seconds=600)
    assert (seen.status, seen.questions, seen.packets) == (0, [], []), seen.output
    products = (
        "crops/crops.csv",
        "answers/predictions.json",
        "features/features.npz",
        "exported",
        "learned/results.json",
    )
    for made in (*products, "report.html"):
        assert (tmp_path / made).exists(), seen.output
    assert list((tmp_path / "tmp").iterdir()) == []
    left = [path.relative_to(tmp_path / "home") for path in (tmp_path / "home").rglob("*") if path.is_file()]
    kept = [path for path in left if path.parts[:3] == (".cache", "fra", "controls")]
    assert {path.parts[:2] for path in set(left) - set(kept)} <= {(".cache", "matplotlib"), (".config", "matplotlib")}
    for path in kept:  # what random weights came to: numbers, and nothing of the person
        assert re.fullmatch(r"[0-9a-f]+\.json", path.name)
        assert re.fullmatch(r'[\s{}:,\[\]."a-z_0-9-]+', text := (tmp_path / "home" / path).read_text()), text


# --- from Python


@pytest.mark.parametrize("set_by_user", [{}, {"ORT_DISABLE_TELEMETRY": "0", "RAY_USAGE_STATS_ENABLED": "1"}])
def test_importing_fra_switches_everything_off_before_anything_else_is_imported(
    elsewhere: dict[str, str], set_by_user: dict[str, str]
) -> None:
    heavy = "('torch', 'timm', 'onnxruntime', 'huggingface_hub', 'ray', 'matplotlib', 'lightning_fabric')"
    script = f"""
        import sys, multiprocessing
        import fra, os
        assert not [name for name in {heavy} if name in sys.modules]
        switches = {SWITCHES!r}
        assert {{name: os.environ.get(name) for name in switches}} == switches
        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                assert pool.map(os.getenv, switches) == list(switches.values())
        """
    environment = {**elsewhere, **set_by_user}
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, env=environment)


@pytest.mark.parametrize(
    "off, warned", [("", True), ("0", True), ("1", False), ("true", False)], ids=["unset", "0", "1", "true"]
)
def test_when_onnxruntime_was_imported_before_and_reports_the_user_is_told(
    elsewhere: dict[str, str], off: str, warned: bool
) -> None:
    script = "import sys; sys.modules['onnxruntime'] = sys; import fra"  # as if: a real one would report
    said = subprocess.run(
        [sys.executable, "-c", script], env={**elsewhere, "ORT_DISABLE_TELEMETRY": off}, capture_output=True, text=True
    ).stderr
    assert ("import fra first" in said) is warned
    assert said.count("\n") <= 2

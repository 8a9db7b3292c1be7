"""The page, attacked over HTTP: no request names a file, no page of elsewhere is answered, and nothing is left."""

import asyncio
import base64
import http.client
import io
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import fra
from fra.app import serve
from fra.app.look import Look

Colour = tuple[int, int, int]
SECRET: Colour = (200, 30, 160)  # of a photo that lies on the server and was never given to the page

# Run before `fra`: no file may grow, in any folder, so that whatever would be written fails.
UNABLE_TO_WRITE = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
START = UNABLE_TO_WRITE + "import sys; from fra import cli; sys.exit(cli.main(sys.argv[1:]))"


def picture(colour: Colour, *, size: int = 64, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(stream, form)
    return stream.getvalue()


def shown(answer: bytes) -> list[Colour]:
    """The colour in the middle of each picture in an answer."""
    found = re.findall(rb"data:image/jpeg;base64,([^\"]+)", answer)
    pictures = [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]
    return [one.getpixel((one.width // 2, one.height // 2)) for one in pictures]  # type: ignore[misc]


def near(colour: Colour, other: Colour) -> bool:
    return max(abs(one - two) for one, two in zip(colour, other, strict=True)) < 12


@dataclass(frozen=True)
class Page:
    port: int
    process: "subprocess.Popen[str]"
    folder: Path
    """HOME, TMPDIR and the working directory of the page lie in it."""

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        given = {"Host": f"127.0.0.1:{self.port}", **(headers or {})}
        if body is not None:
            given.setdefault("Content-Length", str(len(body)))
        for name, value in given.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content

    def look(self, body: bytes) -> bytes:
        status, answer = self.ask("POST", "/look", body)
        assert status == 200, answer
        return answer

    def begin(self, size: int, content: bytes = b"x") -> socket.socket:
        """A photo of `size` bytes of which `content` has arrived."""
        sender = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        head = f"POST /look HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Length: {size}\r\n\r\n"
        sender.sendall(head.encode() + content)
        return sender

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if not path.is_dir()]


@contextmanager
def started(folder: Path) -> Iterator[Page]:
    folder.mkdir(exist_ok=True)
    for name in ("home", "tmp", "cwd"):
        (folder / name).mkdir(exist_ok=True)
    places = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
    environment = {**os.environ, **places, "PYTHONPATH": str(Path(fra.__file__).parents[1])}
    words = ("app", "--detector", "none", "--port", "0", "--device", "cpu")
    with subprocess.Popen(
        [sys.executable, "-c", START, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder / "cwd",
        env=environment,
    ) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
            assert found, process.communicate()
            yield Page(int(found[1]), process, folder)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with started(tmp_path_factory.mktemp("page") / "page") as page:
        yield page


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory, page: Page) -> list[str]:
    """Paths on the server that lead to a photo, or to something that never ends."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "photo.png").write_bytes(picture(SECRET))
    (folder / "link.png").symlink_to(folder / "photo.png")
    (page.folder / "tmp" / "link.png").symlink_to(folder / "photo.png")
    (page.folder / "tmp" / "hard.png").hardlink_to(folder / "photo.png")
    (page.folder / "cwd" / "other.png").write_bytes(picture(SECRET))  # as an upload of another session would lie
    os.mkfifo(folder / "pipe.png")
    return [
        str(folder / "photo.png"),
        str(folder / "link.png"),
        str(page.folder / "tmp" / "link.png"),
        str(page.folder / "tmp" / "hard.png"),
        os.path.relpath(folder / "photo.png", page.folder / "cwd"),
        "other.png",
        f"/proc/{page.process.pid}/cwd/other.png",
        f"/proc/{page.process.pid}/environ",
        str(folder / "pipe.png"),
        "/dev/zero",
        "/etc/passwd",
    ]


@pytest.fixture
def neighbour() -> Iterator[tuple[str, list[str]]]:
    """The address of a photo on another server of this machine, and who asked there."""
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        running = True

        def serve_photo() -> None:
            while running:
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                asked.append(connection.recv(4096).decode(errors="replace"))
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: image/png\r\n\r\n" + picture(SECRET))
                connection.close()

        server = threading.Thread(target=serve_photo)
        server.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/photo.png", asked
        running = False
        server.join()


def gives_nothing_away(status: int, answer: bytes) -> bool:
    return status >= 400 and not shown(answer) and b"root:" not in answer and b"PATH=" not in answer


# --- no request names a file


def file_data(**fields: Any) -> bytes:
    """How gradio's pages, which this one was once, name a file of the server."""
    data = {"orig_name": "a.png", "mime_type": "image/png", "meta": {"_type": "gradio.FileData"}, **fields}
    return json.dumps({"data": [data], "fn_index": 0, "session_hash": "abc", "trigger_id": 1}).encode()


def test_a_photo_is_answered_with_its_own_picture(page: Page) -> None:
    """The other tests can fail: this is how an answer looks."""
    answer = page.look(picture((10, 120, 240)))
    assert b"1 face." in answer
    assert near(shown(answer)[0], (10, 120, 240))


@pytest.mark.parametrize(
    "where",
    [
        "/gradio_api/queue/join",
        "/queue/join",
        "/gradio_api/call/answer",
        "/gradio_api/run/predict",
        "/run/predict",
        "/",
    ],
)
def test_no_path_of_the_server_is_opened_for_a_request_that_names_it(
    page: Page, secrets: list[str], where: str
) -> None:
    for path in secrets:
        headers = {"Content-Type": "application/json"}
        for body in (file_data(path=path), file_data(path=path, url=f"http://127.0.0.1/gradio_api/file={path}")):
            assert gives_nothing_away(*page.ask("POST", where, body, headers)), path
    status, _ = page.ask("GET", "/gradio_api/queue/data?session_hash=abc", headers={"Accept": "text/event-stream"})
    assert status == 404


def test_no_address_leads_to_a_file(page: Page, secrets: list[str]) -> None:
    shapes = ["/{}", "//{}", "/file={}", "/gradio_api/file={}", "/gradio_api/stream/{}", "/static/../../../..{}"]
    shapes += ["/assets/%2e%2e/%2e%2e/%2e%2e{}", "/..%2f..%2f..%2f{}", "/gradio_api/proxy=file://{}", "/look/{}"]
    for path in secrets:
        for shape in shapes:
            for method in ("GET", "POST"):
                assert gives_nothing_away(*page.ask(method, shape.format(path))), (method, shape, path)
    for path in secrets:  # named beside the photo, or in place of it
        answer = page.ask("POST", f"/look?path={path}&file={path}", picture((10, 120, 240)))[1]
        assert all(not near(colour, SECRET) for colour in shown(answer))
        assert gives_nothing_away(*page.ask("GET", f"/look?path={path}"))


def bodies_that_name(what: str) -> list[bytes]:
    vector = f'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><image href="{what}"/></svg>'
    form = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{what}"\r\n\r\n{what}\r\n--x--\r\n'
    script = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n({what}) run\nshowpage\n"
    return [
        what.encode(),
        f"file://{what}".encode(),
        json.dumps({"path": what}).encode(),
        file_data(path=what),
        file_data(path=what, url=what),
        f"{what}\n".encode(),
        form.encode(),
        vector.encode(),
        script.encode(),
        f"#EXTM3U\n{what}\n".encode(),
    ]


def test_what_is_sent_is_a_photo_or_nothing_and_never_the_name_of_one(page: Page, secrets: list[str]) -> None:
    for path in secrets:
        for body in bodies_that_name(path):
            answer = page.look(body)
            assert b"This file cannot be shown" in answer, body
            assert shown(answer) == []


def test_no_address_is_asked_for_a_photo(page: Page, neighbour: tuple[str, list[str]]) -> None:
    url, asked = neighbour
    data_url = f"data:image/png;base64,{base64.b64encode(picture(SECRET)).decode()}"
    for what in (url, url.replace("http://", "ftp://"), url.replace("http://", "//"), data_url):
        for body in bodies_that_name(what):
            assert shown(page.look(body)) == []
        for path in (f"/look?url={url}", f"/proxy={url}", f"/gradio_api/proxy={url}", url, f"/file={url}"):
            assert gives_nothing_away(*page.ask("GET", path))
    status, _ = page.ask("POST", "/gradio_api/upload", bodies_that_name(url)[6])
    assert status == 404
    assert asked == []
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=60) as answer:
        answer.read()
    assert len(asked) == 1  # the neighbour would have noticed


def test_a_frame_of_a_camera_is_answered_with_places_and_its_view_is_a_number(page: Page) -> None:
    status, answer = page.ask("POST", "/live?view=0", picture((10, 120, 240)))
    found = json.loads(answer)
    assert (status, found["sentence"], len(found["faces"])) == (200, "", 1)
    assert found["faces"][0]["box"] == pytest.approx([0, 0, 1, 1])
    for view in ("-1", "9", "1e0", "/etc/passwd", "\u0663".encode().hex()):
        assert page.ask("POST", f"/live?view={view}", picture(SECRET))[0] == 400
    assert json.loads(page.ask("POST", "/live", b"/etc/passwd")[1])["faces"] == []


def test_photos_sent_at_the_same_time_are_each_answered_with_their_own(page: Page) -> None:
    colours = [(30 * number, 255 - 30 * number, 128) for number in range(8)]
    with ThreadPoolExecutor(4) as senders:
        answers = list(senders.map(page.look, map(picture, colours)))
    for colour, answer in zip(colours, answers, strict=True):
        assert shown(answer)
        assert near(shown(answer)[0], colour)


# --- no page of elsewhere is answered

GRADIO = [("POST", "/gradio_api/queue/join"), ("GET", "/gradio_api/queue/data")]
OWN = [("GET", "/"), ("POST", "/look"), ("POST", "/live?view=0"), ("GET", "/drawn?seed=1")]
ROUTES = [*OWN, ("GET", "/look"), *GRADIO]
FOREIGN = [
    {"Origin": "https://elsewhere.example"},
    {"Origin": "http://127.0.0.1"},  # another port
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "https://127.0.0.1:PORT"},
    {"Origin": "http://localhost:PORT"},
    {"Origin": "http://127.0.0.1:PORT.elsewhere.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    {"Host": "elsewhere.example"},
    {"Host": "elsewhere.example:PORT"},
    {"Host": "127.0.0.1.elsewhere.example:PORT"},
    {"Host": "localhost.elsewhere.example"},
    {"Host": "elsewhere.example", "Origin": "http://elsewhere.example", "Sec-Fetch-Site": "same-origin"},
    {"Host": ""},
]


@pytest.mark.parametrize("method, path", ROUTES)
def test_what_a_page_of_elsewhere_makes_a_browser_ask_is_refused(page: Page, method: str, path: str) -> None:
    for headers in FOREIGN:
        given = {name: value.replace("PORT", str(page.port)) for name, value in headers.items()}
        status, answer = page.ask(method, path, picture(SECRET) if method == "POST" else None, given)
        assert status in (400, 403), (given, status)
        assert shown(answer) == []
        assert b"<html" not in answer


def test_the_page_itself_and_a_link_to_it_are_answered(page: Page) -> None:
    own = {"Origin": f"http://127.0.0.1:{page.port}", "Sec-Fetch-Site": "same-origin"}
    assert page.ask("POST", "/look", picture(SECRET), own)[0] == 200
    tunnel = {"Host": "localhost:9000", "Origin": "http://localhost:9000"}  # of `ssh -L 9000:127.0.0.1:7860`
    assert page.ask("POST", "/look", picture(SECRET), tunnel)[0] == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert page.ask("GET", "/", headers=link)[0] == 200
    assert page.ask("POST", "/", headers=link)[0] == 403


@pytest.mark.parametrize("path", ["/", "/look", "/gradio_api/queue/join", "/ws"])
def test_there_is_no_websocket(page: Page, path: str) -> None:
    wanted = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode()}
    assert page.ask("GET", path, headers={**wanted, **key})[0] != 101
    assert page.ask("GET", path, headers={**wanted, **key, "Origin": "http://elsewhere.example"})[0] == 403


ATTEMPTS = """async page => {
    const photo = new Blob(["a photo"]);
    const tried = {};
    for (const mode of ["cors", "no-cors"])
        for (const [method, path] of [["GET", "/"], ["POST", "/look"]])
            tried[`${mode} ${method}`] = await fetch(page + path, {mode, method, body: method == "POST" ? photo : null})
                .then(answer => answer.text()).catch(() => "");
    const frame = document.createElement("iframe");
    const framed = new Promise(done => frame.onload = done);
    frame.src = page;
    document.body.append(frame);
    await framed;
    try { tried.frame = frame.contentDocument?.body.innerText ?? ""; } catch { tried.frame = ""; }
    return tried;
}"""


def test_in_a_real_browser_a_page_of_elsewhere_gets_nothing(page: Page, neighbour: tuple[str, list[str]]) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here: apt install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    own = f"http://127.0.0.1:{page.port}"
    flags = ["--no-sandbox", "--disable-gpu", "--no-proxy-server", "--disable-background-networking"]
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=browser, args=[*flags, "--host-resolver-rules=MAP elsewhere.example 127.0.0.1"]
        )
        tab = chromium.new_page()
        tab.set_default_timeout(120_000)
        answers: list[tuple[str, int]] = []
        tab.on("response", lambda answer: answers.append((answer.url, answer.status)))
        tab.goto(neighbour[0])  # a page of another origin on this machine
        tried = tab.evaluate(ATTEMPTS, own)
        assert set(tried.values()) == {""}
        assert {status for url, status in answers if url.startswith(own)} == {403}
        told = tab.goto(f"http://elsewhere.example:{page.port}/")  # a name that was led here
        assert told is not None
        assert told.status == 400
        link = tab.goto(own)
        assert link is not None
        assert link.status == 200
        chromium.close()


# --- how much is taken


def test_too_large_a_photo_is_refused_before_it_is_sent(page: Page) -> None:
    with page.begin(serve.MOST_BYTES + 1) as sender:
        answer = sender.recv(65536)
        while b"MB." not in answer:
            answer += sender.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"the limit is 100 MB" in answer


@pytest.mark.parametrize("length", ["", "-1", "1e3", "0x10", "9" * 30, "\u0663"])
def test_a_photo_says_how_large_it_is(page: Page, length: str) -> None:
    status, answer = page.ask("POST", "/look", None, {"Content-Length": length.encode().decode("latin-1")})
    assert status in (400, 411, 413), answer


def test_without_its_length_nothing_is_read(page: Page) -> None:
    with socket.create_connection(("127.0.0.1", page.port), timeout=60) as sender:
        sender.sendall(
            b"POST /look HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
        assert sender.recv(4096).startswith(b"HTTP/1.1 411")


def test_more_than_was_said_is_not_read(page: Page) -> None:
    content = picture((10, 120, 240))
    chunks = f"{len(content):x}\r\n".encode() + content + b"\r\n0\r\n\r\n"
    status, answer = page.ask("POST", "/look", chunks, {"Transfer-Encoding": "chunked", "Content-Length": "3"})
    assert status in (400, 413)
    assert shown(answer) == []
    assert asked_directly([{"type": "http.request", "body": b"abcd", "more_body": True}], [])[0] == 413


def busy(page: Page) -> bool:
    status, answer = page.ask("POST", "/look", picture(SECRET))
    assert status == 200 or b"Too many photos are waiting" in answer
    return status == 503


def eventually(page: Page, *, full: bool) -> bool:
    deadline = time.monotonic() + 20
    while busy(page) is not full:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    "sizes", [[1000] * serve.MOST_PHOTOS_AT_ONCE, [serve.MOST_BYTES] * (serve.MOST_BYTES_AT_ONCE // serve.MOST_BYTES)]
)
def test_photos_that_wait_are_few_and_small_and_the_next_one_is_told(page: Page, sizes: list[int]) -> None:
    with ExitStack() as senders:
        for size in sizes:
            senders.enter_context(page.begin(size))
        assert eventually(page, full=True)
        assert page.ask("POST", "/live", picture(SECRET))[0] == 503  # frames of a camera count as photos
    assert eventually(page, full=False)  # those that went away make room


class Unasked:
    """In place of what answers frames of a camera."""

    views: tuple[str, ...] = ()


def asked_directly(messages: list[dict[str, Any]], looked: list[bytes], length: int = 3) -> tuple[int, bytes]:
    """The page as an application, which gets these messages and then none; `looked` takes what it looks at."""

    def looker(content: bytes) -> Look:
        looked.append(content)
        return Look("seen")

    sent: list[Any] = []
    scope = {"type": "http", "method": "POST", "path": "/look", "query_string": b"", "root_path": "", "scheme": "http"}
    scope["headers"] = [(b"host", b"localhost"), (b"content-length", str(length).encode())]

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        return await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(serve.web(looker, Unasked(), {})(scope, receive, send))  # type: ignore[arg-type]
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_a_photo_that_never_arrives_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "UPLOAD_SECONDS", 0.3)
    part = {"type": "http.request", "body": b"x", "more_body": True}
    status, answer = asked_directly([part], [])
    assert (status, answer) == (408, b"The upload did not finish within 0 seconds.")


def test_nothing_is_looked_at_for_who_has_gone() -> None:
    looked: list[bytes] = []
    whole, gone = {"type": "http.request", "body": b"abc"}, {"type": "http.disconnect"}
    asked_directly([whole, gone], looked)
    asked_directly([{**whole, "body": b"a", "more_body": True}, gone], looked)
    assert looked == []
    status, answer = asked_directly([whole], looked)
    assert (status, looked) == (200, [b"abc"])
    assert b"seen" in answer


# --- what is left


def test_nothing_is_written_while_photos_come_and_go(page: Page, tmp_path: Path) -> None:
    """Under a limit of no bytes in any file, which holds for the page in all tests of this file."""
    limit = resource.prlimit(page.process.pid, resource.RLIMIT_FSIZE)
    assert limit == (0, 0)
    writes = UNABLE_TO_WRITE + f"open({str(tmp_path / 'file')!r}, 'wb', buffering=0).write(b'x')"
    assert b"File too large" in subprocess.run([sys.executable, "-c", writes], capture_output=True).stderr
    before = page.files()
    with page.begin(1000):
        for form in ("PNG", "JPEG", "TIFF", "WEBP"):
            page.look(picture((10, 120, 240), size=700, form=form))
        assert page.files() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_the_page_it_ends_soon_and_nothing_is_left(tmp_path: Path, number: signal.Signals) -> None:
    """While one photo is arriving, another is looked at and a third waits."""
    large = picture((10, 120, 240), size=6000)
    with (
        started(tmp_path / "page") as page,
        page.begin(1_000_000),
        page.begin(len(large), large),
        page.begin(9, b"not"),
    ):
        time.sleep(0.5)
        page.process.send_signal(number)
        began = time.monotonic()
        status = page.process.wait(60)
        assert time.monotonic() - began < 10
        assert status in (0, -number, 128 + number)
        assert page.files() == []
        assert page.process.stderr is not None
        assert "Traceback" not in page.process.stderr.read()
        with socket.create_server(("127.0.0.1", page.port)):  # nobody else holds on to it
            pass

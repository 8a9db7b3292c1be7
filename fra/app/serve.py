"""The page: a photo comes in one request and goes in its answer, so there is nothing to keep, to open or to clean up.

So does every frame of a camera. A photo is never a file here, and no request can name one: what is looked at is the
body of the request itself. Whatever ends the process, the photos end with its memory.
"""

import asyncio
import base64
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from fra.app.live import LiveLooker
from fra.app.look import Look, Looker
from fra.crop.tiles import Detail
from fra.drawing.drawn_face import draw_face
from fra.faces.image import jpeg_bytes
from fra.faces.pictures import region_colours
from fra.predict.annotate import POINT_COLOUR, TRACK_COLOURS, UNSURE_COLOUR
from fra.runtime import Runtime
from fra.system.text import install
from fra.training.devices import begin
from fra.training.threads import settle_threads

Result = TypeVar("Result")

if TYPE_CHECKING:
    from jinja2 import Template
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

HOST = "127.0.0.1"
MOST_BYTES, MOST_BYTES_AT_ONCE, MOST_PHOTOS_AT_ONCE = 100_000_000, 200_000_000, 8  # held in memory; ours
UPLOAD_SECONDS = 120.0  # a photo that has not arrived by then makes room; ours
DRAWN_SIDE, MOST_SEED = 320, 1 << 32  # of a drawn face, in pixels; seeds lie below
SCRIPTS = ("page.js", "live.js")
CLOSED = 499  # a status that nobody is there to read


def app(
    model: str | None = None,
    tasks: Sequence[str | Path] = (),
    *,
    detector: str = "retinaface",
    detail: Detail = "auto",
    port: int = 7860,
    runtime: Runtime = Runtime(),
) -> None:
    """Show the page on 127.0.0.1 until interrupted; `port` 0 takes any that is free.

    `model`, `tasks` and `detector` as in Looker, whose ValueErrors come before the page is there. Raises
    ValueError also when starlette or uvicorn is not installed, or the port is taken.
    """
    if port > 65535:
        raise ValueError(f"--port {port} is out of range: use at most 65535, or 0 for any free port")
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed: {install('app')}") from error
    looker = Looker(model, tasks, detector=detector, detail=detail, device=begin(runtime))
    settle_threads(runtime, looker.device, looker.warm_up)
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise ValueError(
            f"port {port} is in use or not permitted: choose another --port, or 0 for any free port"
        ) from error
    settings = uvicorn.Config(
        web(looker, LiveLooker(looker), looker.origins),
        log_level="warning",
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,  # from Python 3.12 on it would wait all the same
    )
    if not runtime.quiet:
        print(f"open http://{HOST}:{listening.getsockname()[1]} in a browser (Ctrl-C stops the server)", flush=True)
    server = uvicorn.Server(settings)
    server.force_exit = True  # when it is told to end, it waits for no answer
    with listening, suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


def web(looker: Callable[[bytes], Look], live: "Live", origins: Mapping[str, str]) -> "ASGIApp":
    """The page as an ASGI application.

    `GET /` shows it; `POST /look` takes a photo as its body and answers in HTML; `POST /live?view=N` takes a frame of a
    camera and answers in JSON, with the region view N if it is given; `GET /drawn?seed=N` draws a face. `origins` says
    where regions and tasks come from. There is no other address, and all answer this machine's own names and pages
    only.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route

    shown = _template("page.html.j2").render(
        script=_script(), most_bytes=MOST_BYTES, origins=origins, views=live.views, colours=_colours()
    )
    room = Room()
    turn, drawing = asyncio.Lock(), asyncio.Lock()

    async def page(request: "Request") -> HTMLResponse:
        return HTMLResponse(shown)

    async def look(request: "Request") -> "Response":
        return await answer(request, lambda content: HTMLResponse(html(looker(content))))

    async def frame(request: "Request") -> "Response":
        view = _number(request, "view", most=len(live.views), usual=None)
        return await answer(request, lambda content: JSONResponse(live(content, view)))

    async def drawn(request: "Request") -> "Response":
        seed = _number(request, "seed", most=MOST_SEED, usual=0)
        async with drawing:
            return await _in_thread(lambda: Response(drawn_jpeg(seed or 0), media_type="image/jpeg"))

    async def answer(request: "Request", make: "Callable[[bytes], Response]") -> "Response":
        try:
            size = _declared(request)
            with room.of(size):
                content = await _received(request, size)
                async with turn:  # one photo takes all cores
                    if content is None or await request.is_disconnected():  # another one was chosen meanwhile
                        return HTMLResponse(status_code=CLOSED)
                    return await _in_thread(lambda: make(content))
        except asyncio.CancelledError:  # the page ends
            return HTMLResponse("The server has stopped.", 503)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/look", look, methods=["POST"]),
            Route("/live", frame, methods=["POST"]),
            Route("/drawn", drawn),
        ],
        middleware=[
            Middleware(OwnPageOnly),
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False),
        ],
    )


class Live(Protocol):
    """What answers frames of a camera, as LiveLooker does."""

    @property
    def views(self) -> list[str]: ...

    def __call__(self, content: bytes, view: int | None) -> dict[str, Any]: ...


class OwnPageOnly:
    """Middleware: refuses what a page of elsewhere makes a browser ask, and lets our page ask nobody else."""

    def __init__(self, app: "ASGIApp") -> None:
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.datastructures import MutableHeaders
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_headers())
            await send(message)

        if scope["type"] == "http" and _foreign(Request(scope)):
            refusal = PlainTextResponse("Requests from other pages are refused.", status_code=403)
            await refusal(scope, receive, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)


def _foreign(request: "Request") -> bool:
    """Whether a page of another origin asks. Browsers say so; what is no browser says nothing, and may ask.

    To follow a link to the page from elsewhere is allowed.
    """
    headers = request.headers
    if any(origin != f"http://{headers.get('host')}" for origin in headers.getlist("origin")):
        return True
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return False
    followed = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    return not (followed and request.method in ("GET", "HEAD") and request.url.path == "/")


@cache
def _headers() -> dict[str, str]:
    """Of every answer. The page's own script and pictures within answers are all that a browser may load."""
    script = base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{script}'; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
    }


# --- photos that come in


@dataclass
class Room:
    """How much is held at once: photos that arrive, wait, or are looked at."""

    photos: int = 0
    bytes: int = 0

    @contextmanager
    def of(self, size: int) -> Iterator[None]:
        """Room for a photo of `size` bytes. HTTPException when it is too large, or there is none left."""
        from starlette.exceptions import HTTPException

        if size > MOST_BYTES:
            large = f"{size / 1e6:,.0f} MB is too large: the limit is {MOST_BYTES / 1e6:,.0f} MB."
            raise HTTPException(413, large)
        if self.photos >= MOST_PHOTOS_AT_ONCE or self.bytes + size > MOST_BYTES_AT_ONCE:
            raise HTTPException(503, "Too many photos are waiting: try again in a moment.", {"Retry-After": "5"})
        self.photos, self.bytes = self.photos + 1, self.bytes + size
        try:
            yield
        finally:
            self.photos, self.bytes = self.photos - 1, self.bytes - size


def _declared(request: "Request") -> int:
    """The bytes that are to come. HTTPException when that is not said."""
    from starlette.exceptions import HTTPException

    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdecimal()):
        raise HTTPException(411, "The Content-Length header is missing.")
    return int(length)


def _number(request: "Request", name: str, *, most: int, usual: int | None) -> int | None:
    """A number of the address, from 0 to below `most`. HTTPException for anything else."""
    from starlette.exceptions import HTTPException

    said = request.query_params.get(name, "")
    if not said:
        return usual
    if not (said.isascii() and said.isdecimal() and len(said) < 12 and int(said) < most):
        raise HTTPException(400, f"{name} is no number from 0 to {most - 1}.")
    return int(said)


async def _received(request: "Request", size: int) -> bytes | None:
    """The photo; None when the sender went away. HTTPException when it takes too long, or there is more than `size`."""
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    content = bytearray()
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            async for part in request.stream():
                content += part
                if len(content) > size:  # a body in chunks is not held to its Content-Length
                    raise HTTPException(413, "The upload is longer than its Content-Length.")
    except ClientDisconnect:
        return None
    except TimeoutError:
        raise HTTPException(408, f"The upload did not finish within {UPLOAD_SECONDS:.0f} seconds.") from None
    return bytes(content)


async def _in_thread(work: Callable[[], Result]) -> Result:
    """On a thread that is no reason to wait when the page ends, as those of asyncio and starlette are."""
    result: Future[Result] = Future()

    def run() -> None:
        with suppress(InvalidStateError):  # nobody waits any more
            try:
                result.set_result(work())
            except Exception as error:
                result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(result)


# --- pages


def drawn_jpeg(seed: int) -> bytes:
    """The drawn face of a seed as a .jpg file."""
    return jpeg_bytes(draw_face(seed, size=DRAWN_SIDE).image)


def html(look: Look) -> str:
    """What was seen as HTML that holds its pictures: no file is written for it."""
    return _template("faces.html.j2").render(look=look)


@cache
def _template(name: str) -> "Template":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.filters["picture"] = lambda image: (
        f"data:image/jpeg;base64,{base64.b64encode(jpeg_bytes(image)).decode()}"
    )
    return environment.from_string(_file(name))


def _script() -> str:
    return "".join(map(_file, SCRIPTS))


def _colours() -> dict[str, list[str]]:
    """Of faces in their order, and of points that are sure and unsure, as the pictures have them."""
    named = {"faces": region_colours(TRACK_COLOURS), "points": [POINT_COLOUR, UNSURE_COLOUR]}
    return {name: [f"rgb({red}, {green}, {blue})" for red, green, blue in them] for name, them in named.items()}


def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")

"""The page: gradio takes the photo and shows the answer, to this machine alone and with nothing from elsewhere."""

import base64
import os
import socket
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fra.app.look import Look, Looker
from fra.faces.image import jpeg_bytes

if TYPE_CHECKING:
    from jinja2 import Template

HOST = "127.0.0.1"
LARGEST_FILE = "200mb"
# Whatever a version of gradio would fetch from elsewhere, the browser refuses.
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"
SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_RUN_HISTORY": "False"}
"""Before gradio is imported: it would report its use, and keep answers in the browser."""
WORDS = (
    "# fra\nDrop a photo. It is looked at on this machine and kept nowhere. What is said of a face is a small model's "
    "guess in the words of its training labels, not a fact about a person."
)


def app(
    model: str | None = None,
    tasks: Sequence[str | Path] = (),
    *,
    detector: str = "retinaface",
    port: int = 7860,
    device: str = "auto",
    quiet: bool = False,
) -> None:
    """Show the page on 127.0.0.1 until interrupted; `port` 0 takes any that is free.

    `model`, `tasks`, `detector` and `device` as in Looker, whose ValueErrors come before the page is there. Raises
    ValueError also when gradio is not installed, or the port is taken.
    """
    if port > 65535:
        raise ValueError(f"port {port} does not exist: give a --port up to 65535, or --port 0 for any that is free")
    with tempfile.TemporaryDirectory(prefix="fra-app-") as uploads:
        import_gradio(uploads)
        import uvicorn

        looker = Looker(model, tasks, detector=detector, device=device)
        try:
            listening = socket.create_server((HOST, port))
        except OSError as error:
            raise ValueError(
                f"port {port} is taken or not allowed: give another --port, or --port 0 for any"
            ) from error
        settings = uvicorn.Config(web(looker), log_level="warning", headers=[("Content-Security-Policy", POLICY)])
        if not quiet:
            print(f"the page is http://{HOST}:{listening.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        with listening, suppress(KeyboardInterrupt):
            uvicorn.Server(settings).run(sockets=[listening])


def import_gradio(uploads: str) -> None:
    """Import it with what it would send or keep switched off; photos go to the folder `uploads`.

    ValueError when it is not installed.
    """
    os.environ.update(SETTINGS, GRADIO_TEMP_DIR=uploads)
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed: pip install 'facial-region-awareness[app]'") from error


def web(looker: Looker) -> Any:
    """The page as an ASGI application that answers this machine's own names only, after `import_gradio`."""
    import gradio
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    def answer(file: str) -> tuple[None, str]:
        try:
            return None, html(looker(file))
        finally:
            Path(file).unlink(missing_ok=True)

    with gradio.Blocks(title="fra", analytics_enabled=False) as page:
        gradio.Markdown(WORDS)
        # Of any type: what gradio itself refused would not reach `answer`, which removes it.
        photo = gradio.File(label="photo", height=140)
        shown = gradio.HTML()
        photo.upload(answer, photo, [photo, shown], api_visibility="private")
    theme = gradio.themes.Default(font="system-ui", font_mono="monospace")  # the default's fonts come from the network
    app = FastAPI(openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return gradio.mount_gradio_app(
        app, page, "/", server_name=HOST, theme=theme, footer_links=[], show_error=False, max_file_size=LARGEST_FILE
    )


def html(look: Look) -> str:
    """What was seen as HTML that holds its pictures: no file is written for it."""
    return _template().render(look=look)


@cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["picture"] = lambda image: (
        f"data:image/jpeg;base64,{base64.b64encode(jpeg_bytes(image)).decode()}"
    )
    return environment.from_string((Path(__file__).parent / "faces.html.j2").read_text(encoding="utf-8"))

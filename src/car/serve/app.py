"""The routes of the service."""

import asyncio
import contextlib
import inspect
import logging
import mimetypes
import os
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import fields
from functools import cache, partial
from importlib import resources
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException

from car._version import __version__
from car.codec.coding import Encoding, FileFormat
from car.codec.options import Options
from car.errors import CarError, ImageError, UsageError, WeightsError, did_you_mean
from car.pictures.exif import KeptExif
from car.pictures.info import read_header
from car.scaling import Wanted
from car.serve.observed import Observed
from car.serve.pictures import NotThereError, Pictures, Result, TooLargeError
from car.serve.settings import Settings
from car.serve.work import BusyError, GoneError, TooSlowError, WorkPool
from car.viewer import assets, shipped_web_models
from car.weights import list_models

_T = TypeVar("_T")
_log = logging.getLogger("car.serve")

_STATUS = {TooLargeError: 413, NotThereError: 404, ImageError: 422, WeightsError: 422, UsageError: 422}
_LINGER = 1.5  # seconds
_FOR_EVER = "public, max-age=31536000, immutable"
_converting = threading.Lock()


class Error(BaseModel):
    """The body of every failure: one line."""

    error: str


class Measured(BaseModel):
    """PSNR in dB and SSIM of a restored picture, on luma and over all channels."""

    psnr: float | None
    ssim: float
    psnr_rgb: float | None


class Comparison(BaseModel):
    """Sizes of a photograph and its small picture as PNG; quality restored from it and from a bicubic one."""

    model: str
    scale: float
    width: int
    height: int
    bytes: int
    small_width: int
    small_height: int
    small_bytes: int
    restored: Measured
    bicubic: Measured


class Model(BaseModel):
    """A model that requests may name. `weights` are its tags, the newest last."""

    name: str
    scale: int
    weights: list[str]


class Health(BaseModel):
    """The state of the service."""

    status: str
    version: str


Scale = Annotated[float | None, Query(description="Scale of a picture without metadata, 1.25 to 16.")]


def _wanted(**values: Any) -> Wanted:
    return Wanted(**values)


# the parameters are the fields of `Wanted`
_wanted.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                get_type_hints(Wanted)[field.name], Query(description=field.metadata["help"])
            ],
        )
        for field in fields(Wanted)
    ]
)
Shrunk = Annotated[Wanted, Depends(_wanted)]
ModelName = Annotated[
    str | None, Query(description="Name or tag of a model; see /v1/models.", min_length=1, max_length=64)
]

Exif = Annotated[
    KeptExif,
    Query(
        description="What to keep of EXIF. keep: date, camera, lens, exposure, artist and copyright. "
        "all: also the place and the rest."
    ),
]


def _file_wanted(
    format: Annotated[FileFormat, Query(description="Format of the answer.")] = "png",
    quality: Annotated[
        int | None,
        Query(ge=1, le=100, description="Quality of JPEG, WebP and AVIF. Without it, WebP is lossless."),
    ] = None,
) -> Encoding:
    return Encoding(format, quality)


FileWanted = Annotated[Encoding, Depends(_file_wanted)]
_KINDS = tuple(Encoding(format).kind for format in get_args(FileFormat))
_PICTURE = {
    "requestBody": {
        "required": True,
        "description": "The picture file itself: PNG, JPEG, WebP, AVIF, TIFF, BMP or GIF.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def _answers(*kinds: str, work: bool = True) -> dict[int | str, dict[str, Any]]:
    """Describe the responses of a route for OpenAPI."""
    file = {"schema": {"type": "string", "format": "binary"}}
    errors = {
        404: "not found",
        408: "the body did not arrive in time",
        413: "too many bytes or pixels",
        415: "a form was sent instead of the file itself",
        422: "the picture or the request makes no sense",
        503: "the queue is full (Retry-After says when to try again), or the work took too long",
    }
    described: dict[int | str, dict[str, Any]] = (
        {200: {"content": dict.fromkeys(kinds, file)}} if kinds else {}
    )
    for status, text in errors.items():
        if work or status in (404, 422):
            described[status] = {"model": Error, "description": text}
    return described


async def _known_parameters(request: Request) -> None:
    """Refuse query parameters that the route does not know, because a misspelt one would have no effect.

    Raises:
        UsageError: a parameter is unknown, or is given twice.
    """
    route = request.scope["route"].dependant
    known = [field.alias for part in (route, *route.dependencies) for field in part.query_params]
    asked = [name for name, _ in request.query_params.multi_items()]
    for name in asked:
        if name not in known:
            raise UsageError(f"no parameter is called {name!r}{did_you_mean(name, known)}")
        if asked.count(name) > 1:
            raise UsageError(f"the parameter {name!r} is given more than once")


class _AnyPath(PathConvertor):
    """A path of any characters; Starlette's has no line ends."""

    regex = "(?s:.*)"


register_url_convertor("any_path", _AnyPath())
_CHECKED = [Depends(_known_parameters)]


def create_app(settings: Settings) -> FastAPI:
    """Return the service as an ASGI application."""
    service = _Service(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        yield
        service.pool.close()

    app = FastAPI(
        title="car",
        version=__version__,
        summary="Shrink photographs to small ordinary pictures that restore far better than thumbnails.",
        lifespan=lifespan,
        docs_url=None,  # its page loads files from other hosts
        redoc_url=None,
    )
    _add_failures(app, settings)
    _add_work(app, service)
    _add_folder(app, service)
    _add_state(app, service)
    _add_pages(app)
    return app


class _Service:
    """What the routes share: the pictures, the threads that work on them, and the limits."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pictures = Pictures(settings)
        self.pool = WorkPool(settings.concurrency or os.cpu_count() or 1, settings.queue)

    async def work(self, request: Request, function: Callable[[], _T]) -> _T:
        """Run a function on the threads, and return its result."""
        return await self.pool.run(function, self.settings.timeout, request.is_disconnected)

    async def body(self, request: Request) -> bytes:
        """Return the body of a request; never hold more of it than the limit."""
        if request.headers.get("content-type", "").lower().startswith("multipart/"):
            raise HTTPException(415, "send the file itself as the body, not a form")
        seconds = self.settings.upload_timeout
        try:
            return await asyncio.wait_for(_read(request, self.settings.max_bytes), seconds)
        except (TimeoutError, asyncio.TimeoutError):
            text = f"the body took longer than {seconds:g} seconds"
            raise HTTPException(408, text, {"Connection": "close"}) from None


def _add_failures(app: FastAPI, settings: Settings) -> None:
    """Turn every error into a line of JSON."""
    late = f"the work took longer than {settings.timeout:g} seconds"
    answers: dict[type[Exception], Callable[[Any], Response]] = {
        CarError: lambda error: _failure(
            next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500), str(error)
        ),
        BusyError: lambda _: _failure(503, "the queue is full; try again later", {"Retry-After": "2"}),
        TooSlowError: lambda _: _failure(503, late, {"Retry-After": "5"}),
        GoneError: lambda _: _failure(499, "the client left"),
        RequestValidationError: _invalid,
        HTTPException: lambda error: _failure(error.status_code, str(error.detail), error.headers),
        Exception: _internal,
    }
    for kind, answer in answers.items():

        async def handler(
            _: Request, error: Exception, answer: Callable[[Any], Response] = answer
        ) -> Response:
            return answer(error)

        app.add_exception_handler(kind, handler)


def _invalid(error: RequestValidationError) -> Response:
    first = error.errors()[0]
    return _failure(422, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")


def _internal(error: Exception) -> Response:
    _log.error("internal error", exc_info=error)
    return _failure(500, "internal error")


def _add_work(app: FastAPI, service: _Service) -> None:
    """Add the routes that work on the picture in the body of a request."""

    @app.post(
        "/v1/downscale",
        response_class=Response,
        responses=_answers(*_KINDS),
        openapi_extra=_PICTURE,
        dependencies=_CHECKED,
    )
    async def downscale(
        request: Request,
        wanted: Shrunk,
        file: FileWanted,
        model: ModelName = None,
        effort: Annotated[
            int, Query(ge=0, le=9, description="Above 0: shrinks more slowly, restores better.")
        ] = 0,
        fast: Annotated[
            bool, Query(description="Shrink without the corrector of models that have one.")
        ] = False,
        exif: Exif = "none",
    ) -> Response:
        """Shrink a photograph."""
        how = Options(effort=effort, fast=fast, exif=exif)
        choose = service.pictures.chooser(model, wanted, file, how)
        content = await service.body(request)
        result = await service.work(request, lambda: service.pictures.shrink(content, choose, file))
        return _file(result, f"small.{wanted.label or f'x{choose((1, 1)).scale}'}.{file.format}")

    @app.post(
        "/v1/upscale",
        response_class=Response,
        responses=_answers(*_KINDS),
        openapi_extra=_PICTURE,
        dependencies=_CHECKED,
    )
    async def upscale(
        request: Request,
        file: FileWanted,
        scale: Scale = None,
        model: ModelName = None,
        exif: Exif = "none",
    ) -> Response:
        """Restore a small picture. Files made by this software need no options."""
        if model is not None or scale is not None:
            service.pictures.chooser(model, Wanted(scale))
        content = await service.body(request)
        how = Options(exif=exif)
        restore = partial(service.pictures.restore, content, model, scale, file, how)
        result = await service.work(request, restore)
        return _file(result, f"restored.{file.format}")

    @app.post("/v1/compare", responses=_answers(), openapi_extra=_PICTURE, dependencies=_CHECKED)
    async def compare(request: Request, wanted: Shrunk, model: ModelName = None) -> Comparison:
        """Measure the round trip of a photograph, and for comparison one with bicubic down and up."""
        choose = service.pictures.chooser(model, wanted)
        content = await service.body(request)
        return Comparison(**await service.work(request, lambda: service.pictures.measure(content, choose)))


def _add_folder(app: FastAPI, service: _Service) -> None:
    """Add the routes for what one can choose from: models, and pictures of the folder."""

    @app.get("/v1/models", responses=_answers(work=False), dependencies=_CHECKED)
    async def models() -> list[Model]:
        """List the models that requests may name."""
        known = list_models()
        return [Model(name=m.name, scale=m.scale, weights=list(m.tags)) for m in known if m.tags]

    @app.get("/v1/pictures", responses=_answers(work=False), dependencies=_CHECKED)
    def names() -> list[str]:  # on a thread of Starlette: it is quick, and must not wait for pictures
        """List the pictures of the folder; /small/ has their small pictures."""
        return service.pictures.listing()

    described: dict[str, Any] = {
        "path": "/small/{name:any_path}",
        "response_class": Response,
        "responses": _answers(*_KINDS) | {304: {"description": "not modified"}},
        "dependencies": _CHECKED,
    }

    # two routes, because OpenAPI needs a name for each method
    @app.get(**described)
    @app.head(**described)
    async def small(
        request: Request,
        name: Annotated[str, Path(description="Name of a picture in the folder.", max_length=4096)],
        wanted: Shrunk,
        file: FileWanted,
        model: ModelName = None,
        exif: Exif = "none",
    ) -> Response:
        """Get the small picture of a photograph in the folder."""
        choose = service.pictures.chooser(model, wanted, file, Options(exif=exif))
        path = service.pictures.located(name)
        codec = choose(read_header(path).size if wanted.by_size else (1, 1))
        tag = f'"{service.pictures.etag(path, codec, file)}"'
        headers = {"ETag": tag, "Cache-Control": "public, max-age=0, must-revalidate"}
        known = request.headers.get("if-none-match", "")
        if known == "*" or tag in (part.strip().removeprefix("W/") for part in known.split(",")):
            return Response(status_code=304, headers=headers)
        result = await service.work(request, lambda: service.pictures.small(path, codec, file))
        return Response(result.content, media_type=result.kind, headers=headers)


def _add_state(app: FastAPI, service: _Service) -> None:
    """Add the routes that report the state of the service."""
    registry = CollectorRegistry()
    requests = Counter("car_requests", "Answers.", ["route", "status"], registry=registry)
    seconds = Histogram("car_request_seconds", "Time to an answer.", ["route"], registry=registry)
    for name, text, value in (
        ("car_work_in_hand", "Pictures in progress or waiting.", lambda: service.pool.in_hand),
        ("car_cache_hits", "Small pictures from the cache.", lambda: service.pictures.cache_hits),
    ):
        Gauge(name, text, registry=registry).set_function(value)
    app.add_middleware(Observed, requests=requests, seconds=seconds)

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz")
    async def healthz() -> Health:
        """Report that the service runs."""
        return Health(status="ok", version=__version__)

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", responses={503: {"model": Error, "description": "the queue is full"}})
    async def readyz() -> Health:
        """Report whether the service would accept another picture now."""
        if service.pool.in_hand >= service.pool.room:
            raise HTTPException(503, "the queue is full")
        return Health(status="ok", version=__version__)

    @app.api_route("/metrics", methods=["GET", "HEAD"], include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _add_pages(app: FastAPI) -> None:
    """Add the page, and the viewer for web sites."""

    @app.api_route("/viewer/models/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    def viewer_model(name: str) -> Response:  # likewise
        with _converting:  # only one of the first requests converts the weights
            content = _web_models().get(name.removesuffix(".safetensors"))
        if content is None:
            raise HTTPException(404, "no weights have this name")
        headers = {"Cache-Control": _FOR_EVER}
        return Response(content, media_type="application/octet-stream", headers=headers)

    @app.api_route("/viewer/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def viewer(name: str) -> Response:
        return _static(_viewer(), name)

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def front() -> Response:
        return _static(_page(), "index.html")

    @app.api_route("/static/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def static(name: str) -> Response:
        return _static(_page(), name)


async def _read(request: Request, limit: int) -> bytes:
    claimed = request.headers.get("content-length", "")
    parts = request.stream()
    if not (claimed.isdecimal() and int(claimed) > limit):
        content = bytearray()
        async for part in parts:
            content += part
            if len(content) > limit:
                break
        else:
            return bytes(content)
        content.clear()
    if "expect" not in request.headers:  # a client that asks first has sent nothing yet
        # many clients read the response only after they have sent everything, so read and drop the rest for
        # a while
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(_drain(parts), _LINGER)
    raise HTTPException(413, f"more than {limit} bytes", {"Connection": "close"})


async def _drain(parts: AsyncGenerator[bytes, None]) -> None:
    async for _ in parts:
        pass


def _file(result: Result, name: str) -> Response:
    headers = {"Content-Disposition": f'inline; filename="{name}"', "Cache-Control": "no-store"}
    if result.notes:
        headers["Car-Notes"] = "; ".join(result.notes).encode("ascii", "replace").decode()[:2000]
    return Response(result.content, media_type=result.kind, headers=headers)


def _failure(status: int, message: str, headers: Any = None) -> Response:
    return JSONResponse({"error": " ".join(message.split())}, status, headers=dict(headers or {}))


def _static(files: dict[str, bytes], name: str) -> Response:
    if name not in files:
        raise HTTPException(404, "there is no such file")
    kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0]
    headers = {"Cache-Control": "no-cache"}
    return Response(files[name], media_type=kind or "application/octet-stream", headers=headers)


_viewer, _web_models = cache(assets), cache(shipped_web_models)


@cache
def _page() -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in resources.files("car.serve").joinpath("static").iterdir()}

"""The HTTP interface: one application over one follower of the published index.

    GET /similar/{note_id}?k=10     the notes most similar to one, and which model and publication answered
    GET /random                     a note of the index, any
    GET /version                    what is loaded, and what the pointer names
    GET /healthz, /readyz           alive; an index is loaded
    GET /metrics                    for Prometheus
    GET /                           a page for people

Every answer is taken from one opened version, so it never mixes two publications.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from notellm2.publication.pointer import Publication
from notellm2.publication.reader import OpenVersion, UnknownNote
from notellm2.serving.metrics import CONTENT_TYPE, Metrics, RequestMetrics
from notellm2.serving.page import Page
from notellm2.serving.pointer_follower import Follower, NotReady

MOST_NEIGHBOURS = 1000
_VERSION = importlib.metadata.version("notellm2")
_RETRY_S = "2"


class Source(BaseModel):
    """Which publication an answer is from: the ids that `notellm2 lineage` takes.

    Attributes:
        publication: name of the published index.
        model_name: registered model.
        model_version: its version, which embedded the notes.
        bundle: digest of that version's bundle.
        index_key: key of the index artifact.
        data_md5: data version the notes are from.
        notes: how many.
        published: when, ISO 8601, UTC.
    """

    publication: str
    model_name: str
    model_version: str
    bundle: str
    index_key: str
    data_md5: str
    notes: int
    published: str

    @classmethod
    def of(cls, publication: Publication) -> Source:
        """Describe a publication as the source of an answer."""
        names = ("model_name", "model_version", "bundle", "index_key", "data_md5", "published")
        facts = {name: getattr(publication, name) for name in names}
        return cls(publication=publication.version, notes=publication.count, **facts)


class SimilarNote(BaseModel):
    """A similar note: its id, its cosine to the one asked for, its title where it has one and the index has titles."""

    note_id: str
    score: float
    title: str | None = None


class Similar(BaseModel):
    """The notes most similar to one, best first, and what answered."""

    note_id: str
    title: str | None = None
    similar: list[SimilarNote]
    served_by: Source


class Refusal(BaseModel):
    """What was wrong, in a sentence.

    Attributes:
        detail: the sentence.
        near: ids that begin alike, for an unknown note.
        served_by: what was asked, where an index is loaded.
    """

    detail: str
    near: list[str] | None = None
    served_by: Source | None = None


class Readiness(BaseModel):
    """Whether an index is loaded, which, and what keeps the service from following the pointer."""

    ready: bool
    publication: str | None = None
    problem: str | None = None


class Running(BaseModel):
    """The package that runs, and the index that it serves.

    Attributes:
        notellm2: version of this package.
        published: the published place.
        loaded: the index in use; None: none is.
        loaded_at: since when, ISO 8601, UTC.
        pointer: what the pointer named when it was last read.
        problem: why that is not what is loaded, or cannot be read; None: all is well.
    """

    notellm2: str
    published: str
    loaded: Source | None
    loaded_at: str | None
    pointer: Source | None
    problem: str | None


class _Unknown(Exception):
    """The note asked for is not in the index."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


NoteId = Annotated[str, Path(description="Id of a note of the published index.")]
Count = Annotated[int, Query(ge=1, le=MOST_NEIGHBOURS, description="Most notes returned.")]


def application(follower: Follower) -> FastAPI:
    """Make the application; it follows the pointer from its start to its end.

    Args:
        follower: of the published place, not yet started.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        with follower:
            yield

    metrics = Metrics(follower)
    # FastAPI's own documentation pages load scripts from elsewhere; the schema itself stays at /openapi.json.
    app = FastAPI(title="notellm2", version=_VERSION, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(RequestMetrics, metrics=metrics)
    _answers(app, follower)
    _operations(app, follower, metrics)
    return app


def _answers(app: FastAPI, follower: Follower) -> None:
    """What is asked of the index."""
    page = Page.load()

    @app.exception_handler(NotReady)
    async def not_ready(_request: Request, error: NotReady) -> JSONResponse:
        refusal = Refusal(detail=str(error)).model_dump(exclude_none=True)
        return JSONResponse(refusal, 503, {"Retry-After": _RETRY_S})

    @app.exception_handler(_Unknown)
    async def unknown(_request: Request, error: _Unknown) -> JSONResponse:
        return JSONResponse(error.refusal.model_dump(exclude_none=True), 404)

    wrong: dict[int | str, dict[str, Any]] = {404: {"model": Refusal}, 503: {"model": Refusal}}

    # A plain function, so in a thread of its own: a search must not hold up the health checks.
    @app.get("/similar/{note_id:path}", response_model_exclude_none=True, responses=wrong)  # an id may hold slashes
    def similar(note_id: NoteId, response: Response, k: Count = 10) -> Similar:
        """The notes most similar to one, best first, the note itself never among them."""
        version = follower.current
        source = Source.of(version.publication)
        try:
            neighbours = version.similar(note_id, k)
        except UnknownNote as error:
            raise _Unknown(Refusal(detail=str(error), near=list(error.near), served_by=source)) from None
        response.headers["Cache-Control"] = "no-cache"
        similar = [
            SimilarNote(note_id=n.note_id, score=round(n.score, 6), title=version.title(n.note_id)) for n in neighbours
        ]
        return Similar(note_id=note_id, title=version.title(note_id), similar=similar, served_by=source)

    @app.get("/random", responses={503: {"model": Refusal}})
    def random(response: Response) -> dict[str, str]:
        """Any note of the index."""
        version = follower.current
        response.headers["Cache-Control"] = "no-store"
        return {"note_id": version.note_id(secrets.randbelow(len(version)))}

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(page.html, media_type="text/html", headers=page.headers)


def _operations(app: FastAPI, follower: Follower, metrics: Metrics) -> None:
    """What is asked of the service. On the event loop: these must answer when every thread is busy."""

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is alive."""
        return {"status": "alive"}

    @app.get("/readyz", responses={503: {"model": Readiness}})
    async def readyz(response: Response) -> Readiness:
        """An index is loaded. `problem` tells what keeps a loaded index from being the one that is published."""
        version = follower.loaded
        if version is None:
            response.status_code = 503
            return Readiness(ready=False, problem=follower.problem)
        return Readiness(ready=True, publication=version.publication.version, problem=follower.problem)

    @app.get("/version")
    async def version() -> Running:
        """What is loaded, and what the pointer names."""
        loaded, pointer, since = follower.loaded, follower.pointer, follower.loaded_at
        return Running(
            notellm2=_VERSION,
            published=str(follower.location),
            loaded=_source(loaded),
            loaded_at=None if since is None else datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds"),
            pointer=None if pointer is None else Source.of(pointer),
            problem=follower.problem,
        )

    @app.get("/metrics", include_in_schema=False)
    async def prometheus() -> Response:
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def _source(version: OpenVersion | None) -> Source | None:
    return None if version is None else Source.of(version.publication)

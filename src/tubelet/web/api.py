"""Routes: what is asked over HTTP, as calls of the library. The page and everything it loads come from here, too.

    GET  /, /app.js ...                  the page
    GET  /api/about                      the model, its methods, the files that may be opened
    POST /api/open                       a file, as the body or named in JSON: read, encoded     -> JSON
                                         a scene's folder, named in JSON: read                   -> JSON
    GET  /api/document/ID                what is open under that id                              -> JSON
    GET  /api/frame/ID/F?side=           a decoded frame                                         -> PNG
    GET  /api/points/ID                  points of a scene (web.scenes)                          -> bytes
    GET  /api/depth/ID/F?side=           depth of a scene's frame, drawn                         -> PNG
    GET  /api/scores/ID/METHOD?budget=   what a method says (web.look)                           -> bytes
    GET  /api/positions/ID?rule=         grid, 1d, qwen2-vl, qwen2.5-vl                          -> int32 (T, 3)
    GET  /api/colours/ID                 principal directions as red, green, blue                -> bytes (T, 3)
    GET  /api/plan?width=&height=...     what that would cost                                    -> JSON
    POST /api/ask                        {"id", "question"}                                      -> lines of JSON

Errors are {"error", "message"} in our own words: 422 what cannot be used, 404, 405, 503 with Retry-After when busy.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, Router

from tubelet.errors import InputError, TubeletError, WeightsError
from tubelet.inspect.budget.networks import LANGUAGE
from tubelet.inspect.draw.cells import HEAT
from tubelet.inspect.draw.scene_page import turn_script
from tubelet.reduce.methods import METHODS, choose, needs_of
from tubelet.reduce.settings import Settings
from tubelet.web import look
from tubelet.web.answers import Gone, answer, checked_question
from tubelet.web.asked import asked_of, integer_of, json_of, side_of
from tubelet.web.bench import Bench, Sought
from tubelet.web.costs import costs
from tubelet.web.documents import Document, Documents, Source, T, open_document
from tubelet.web.folder import is_folder_below, listed, read_below
from tubelet.web.line import Busy, Line
from tubelet.web.scenes import MOST_SCENE_BYTES, MOST_SCENES, SceneDocument, ScenePlace, open_scene

TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
NAMES = ("app", "state", "choose", "stage", "scene", "token", "side", "cells", "draw", "net", "plan")
PAGE = ("index.html", *(f"{name}.js" for name in NAMES), "style.css", "icon.svg")
TURN = "turn.js"  # of the page that `tubelet scene` writes, too
WAITING, PICTURES_WAITING = 4, 64  # that may wait for the model, and for frames to be written as PNG
RECEIVED = 4  # bodies that are received at a time, which memory holds whole
LONGEST_NAME = 200

Handler = Callable[[Request], Awaitable[Response]]


class Api:
    """The routes over one bench, and what is open. `router` is the ASGI application."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.documents, self.scenes = Documents[Document](), Documents[SceneDocument](MOST_SCENES, MOST_SCENE_BYTES)
        self.receiving = 0
        self.model, self.pictures = Line("model", WAITING), Line("pictures", PICTURES_WAITING)
        static = files("tubelet.web").joinpath("static")
        pages = {name: static.joinpath(name).read_bytes() for name in PAGE} | {TURN: turn_script().encode("utf-8")}
        routes = [Route(f"/{name}", _static(name, content)) for name, content in pages.items()]
        routes += [
            Route("/", _static("index.html", pages["index.html"])),
            Route("/favicon.ico", _static("icon.svg", b"", status=204)),
            Route("/api/about", self._told(self.about)),
            Route("/api/open", self._told(self.open), methods=["POST"]),
            Route("/api/document/{id}", self._told(self.document)),
            Route("/api/frame/{id}/{frame:int}", self._told(self.frame)),
            Route("/api/points/{id}", self._told(self.points)),
            Route("/api/depth/{id}/{frame:int}", self._told(self.depth)),
            Route("/api/scores/{id}/{method}", self._told(self.scores)),
            Route("/api/positions/{id}", self._told(self.positions)),
            Route("/api/colours/{id}", self._told(self.colours)),
            Route("/api/plan", self._told(self.plan)),
            Route("/api/ask", self._told(self.ask), methods=["POST"]),
        ]
        self.router = Router(routes, redirect_slashes=False)

    def close(self) -> None:
        """Ends the threads; documents are let go with the value."""
        self.model.close()
        self.pictures.close()

    def _told(self, handler: Handler) -> Handler:
        """The handler, whose errors of ours are answers."""

        async def told(request: Request) -> Response:
            try:
                return await handler(request)
            except ClientDisconnect:  # in the middle of its body; nobody hears this
                return _error(400, "Gone", "the body ended early")
            except Busy:
                return _error(503, "Busy", "others are being served; try again in a moment", {"Retry-After": "1"})
            except InputError as e:
                return _error(404 if e.expected == "open" else 422, type(e).__name__, e.message)
            except TubeletError as e:
                return _error(422, type(e).__name__, e.message)

        return told

    # ---- what there is

    async def about(self, request: Request) -> Response:
        bench = self.bench
        root = None if bench.root is None else await asyncio.to_thread(listed, bench.root)
        return JSONResponse(
            {
                "model": {"name": bench.name, "untrained": bench.untrained, "option": bench.told},
                "reader": None if bench.reader is None else bench.reader_name,
                "words": bench.words is not None,
                "files": [file_title(Path(file)) for file in bench.files],
                "root": root,
                "methods": [self._method(name) for name in METHODS],
                "heat": HEAT.tolist(),
                "llms": list(LANGUAGE),
                "rules": list(look.RULES),
                "most_upload": bench.most_upload,
            }
        )

    def _method(self, name: str) -> dict[str, Any]:
        method, why = METHODS[name], None
        needs = needs_of(name, Settings())
        if "text" in needs and self.bench.words is None:
            why = "this model has no text side"
        elif "boxes" in needs:
            why = "tubelet select --boxes takes boxes"
        about = {"name": name, "about": method.about, "kind": method.kind, "ranks": method.ranks, "why": why}
        return about | {"text": "text" in needs, "video": "sparse" in needs}

    # ---- a file

    async def open(self, request: Request) -> Response:
        if request.headers.get("content-type", "") == "application/json":
            asked = json_of(await self._body(request))
            source = partial(self._named, asked)
        else:
            data = await self._body(request)
            said = json_of(request.headers.get("x-tubelet-file", "{}").encode("latin-1"))
            name, asked = str(said.get("name", "file"))[-LONGEST_NAME:], said
            source = partial(Source, name, data)
        how = asked_of(asked)

        def work() -> dict[str, Any]:
            found, bench = source(), self.bench
            if isinstance(found, ScenePlace):
                scene = open_scene(found)
                self.scenes.add(scene)
                return scene.about()
            document = open_document(found, how, bench.encoder, bench.recipe, bench.views_of)
            self.documents.add(document)
            return look.about(document)

        return JSONResponse(await self.model.do(work))

    async def _body(self, request: Request) -> bytes:
        """All of it. Raises Busy where as many are received as may be."""
        if self.receiving >= RECEIVED:
            raise Busy
        self.receiving += 1
        try:
            return await request.body()
        finally:
            self.receiving -= 1

    def _named(self, asked: dict[str, Any]) -> Source | ScenePlace:
        """The file or scene that JSON names: {"doc": id}, {"file": number} or {"path": below the root}.

        Raises InputError."""
        if isinstance(asked.get("doc"), str):
            return self._document(asked["doc"]).source
        number, path = asked.get("file"), asked.get("path")
        if type(number) is int and 0 <= number < len(self.bench.files):
            given = self.bench.files[number]
            file = Path(given).resolve()
            if is_folder_below(file.parent, file.name):
                return ScenePlace(file_title(Path(given)), file.parent, file.name, {"file": number})
            return Source(file.name, read_below(file.parent, file.name), given, {"file": number})
        if isinstance(path, str) and self.bench.root is not None:
            if is_folder_below(self.bench.root, place := path.removesuffix("/")):
                return ScenePlace(place.rpartition("/")[2] + "/", self.bench.root, place, {"path": path})
            data = read_below(self.bench.root, path)
            return Source(path.rpartition("/")[2], data, str(self.bench.root / path), {"path": path})
        raise InputError('name what to open: {"doc": id}, {"file": number}, or {"path": ...} with --root')

    def _document(self, name: str) -> Document:
        if name in self.scenes:
            raise InputError("a scene has no tokens")
        return _open(self.documents, name)

    async def document(self, request: Request) -> Response:
        name = request.path_params["id"]
        if name in self.scenes:
            return JSONResponse(_open(self.scenes, name).about())
        return JSONResponse(await self.pictures.do(partial(look.about, self._document(name))))

    async def frame(self, request: Request) -> Response:
        name, number, side = request.path_params["id"], request.path_params["frame"], side_of(request)
        if name in self.scenes:
            scene = _open(self.scenes, name)
            return await self._png(lambda: look.png_of(scene.frame(number), side))
        return await self._png(partial(look.frame_png, self._document(name), number, side))

    async def _png(self, work: Callable[[], bytes]) -> Response:
        return Response(await self.pictures.do(work), media_type="image/png")

    # ---- scenes

    async def points(self, request: Request) -> Response:
        scene = _open(self.scenes, request.path_params["id"])
        return Response(scene.point_bytes, media_type="application/octet-stream")

    async def depth(self, request: Request) -> Response:
        scene, side = _open(self.scenes, request.path_params["id"]), side_of(request)
        return await self._png(lambda: look.png_of(scene.drawn_depth(request.path_params["frame"]), side))

    # ---- tokens

    async def scores(self, request: Request) -> Response:
        document, name = self._document(request.path_params["id"]), request.path_params["method"]
        if name not in METHODS:
            raise InputError(f"no such method; there are {', '.join(METHODS)}", expected=tuple(METHODS))
        told = self._method(name)
        if told["why"] is not None:
            raise InputError(f"{name}: {told['why']}")
        ranks, text = METHODS[name].ranks, request.query_params.get("text")
        question = checked_question(text) if told["text"] else None
        budget = len(document.tokens.x) if ranks else integer_of(request, "budget", 1)

        def work() -> bytes:
            sought: Sought = (None, "auto")
            if question is not None and self.bench.words is not None:
                sought = self.bench.words(question)
            inputs = document.inputs(needs_of(name, Settings()), sought[0], sought[1])
            return look.choice_bytes(document.tokens, choose(name, inputs, budget=budget), budget, ranks=ranks)

        return Response(await self.model.do(work), media_type="application/octet-stream")

    async def positions(self, request: Request) -> Response:
        document, rule = self._document(request.path_params["id"]), request.query_params.get("rule", "grid")
        tokens = document.tokens
        work = partial(look.places, tokens) if rule == "grid" else partial(look.positions, tokens, rule)
        return Response(await self.pictures.do(work), media_type="application/octet-stream")

    async def colours(self, request: Request) -> Response:
        document = self._document(request.path_params["id"])
        found, share = await self.model.do(partial(look.colours, document.tokens))
        return Response(found, media_type="application/octet-stream", headers={"X-Tubelet-Share": f"{share:.4f}"})

    async def plan(self, request: Request) -> Response:
        asked, bench = dict(request.query_params), self.bench
        config = replace(bench.encoder.config, pixels=bench.recipe)
        views = bench.views_of(asked.get("views"))
        return JSONResponse(await self.pictures.do(partial(costs, asked, config, views, device=bench.device)))

    # ---- questions

    async def ask(self, request: Request) -> Response:
        asked = json_of(await self._body(request))
        document, question = self._document(str(asked.get("id"))), checked_question(asked.get("question"))
        if self.bench.reader is None:
            raise WeightsError("no model answers here: start tubelet serve with --reader MODEL")
        vlm, loop, lines = self.bench.reader, asyncio.get_running_loop(), asyncio.Queue[str | None]()
        gone = False

        def say(line: str | None) -> None:
            if gone:
                raise Gone
            loop.call_soon_threadsafe(lines.put_nowait, line)

        def work() -> None:
            try:
                answer(vlm, document, question, say)
            except Gone:
                return
            except TubeletError as e:
                loop.call_soon_threadsafe(
                    lines.put_nowait, json.dumps({"error": type(e).__name__, "message": e.message}) + "\n"
                )
            finally:
                loop.call_soon_threadsafe(lines.put_nowait, None)

        task = asyncio.ensure_future(self.model.do(work))

        async def stream() -> AsyncIterator[str]:
            nonlocal gone
            try:
                while (line := await lines.get()) is not None:
                    yield line
                await task
            finally:
                gone = True

        await asyncio.sleep(0)  # a line that is full says so before the answer begins
        if task.done():
            task.result()
        return StreamingResponse(stream(), media_type="application/x-ndjson")


# ---- the small print


def _open(held: Documents[T], name: str) -> T:
    """What is open under that id. Raises InputError, which becomes a 404."""
    try:
        return held.get(name)
    except InputError as e:
        e.expected = "open"
        raise


def file_title(path: Path) -> str:
    """The last part of a path, and a stroke where it is a folder."""
    return (path.name or path.resolve().name) + "/" * path.is_dir()


def _static(name: str, content: bytes, *, status: int = 200) -> Handler:
    async def static(request: Request) -> Response:
        return Response(content, status, media_type=TYPES[Path(name).suffix])

    return static


def _error(status: int, error: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": error, "message": message}, status, headers)

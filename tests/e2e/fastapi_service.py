"""A web service that asks headrace, by one client for as long as it runs."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from headrace_client import AsyncClient, HeadraceClientError

HTTP_STATUS = {
    "INVALID_ARGUMENT": 422,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    target = os.environ.get("HEADRACE_TARGET", "127.0.0.1:8001")
    async with AsyncClient(target, timeout_s=2, attempts_max=3) as client:
        app.state.headrace = client
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(HeadraceClientError)
async def told(_: Request, error: HeadraceClientError) -> JSONResponse:
    status = HTTP_STATUS.get(error.code, 500)
    return JSONResponse({"code": error.code, "message": error.message}, status)


@app.post("/predict/{model}")
async def predict(model: str, rows: list[dict[str, Any]], request: Request) -> dict[str, Any]:
    client: AsyncClient = request.app.state.headrace
    return (await client.predict(model, rows)).as_dict()


@app.get("/ready")
async def ready(request: Request) -> JSONResponse:
    client: AsyncClient = request.app.state.headrace
    is_ready = await client.ready()
    return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

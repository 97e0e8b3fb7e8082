"""A registry in a FastAPI application, at the address where Docker's clients look for one.

    ENSEADA_DATA=FOLDER uvicorn --app-dir examples fastapi_app:app
    docker login 127.0.0.1:8000
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

import enseada

registry = enseada.Registry(enseada.load_settings())


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """What is mounted has no lifespan of its own, so the registry runs within this one."""
    async with registry.running():
        if registry.admin_password is not None:
            print("admin password:", registry.admin_password, flush=True)
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/health")
async def health() -> dict[str, bool]:
    """The application's own."""
    return {"registry": registry.is_running}


app.mount("/v2", enseada.asgi(registry, on_exchange=enseada.log_exchange))

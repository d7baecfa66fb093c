"""Replicate's read-only calls: models, versions, deployments, collections, the account, the webhook secret."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from server.context import Context
from server.facades.kit.app import root
from server.facades.kit.body import Json, read_body
from server.facades.kit.complaints import SHOWN
from server.facades.replicate import catalog, errors
from server.facades.replicate.models import MODELS, Model, model_of, of_version
from server.facades.replicate.webhook import secret_text


class About:
    def __init__(self, context: Context) -> None:
        self.context = context

    def models(self, request: Request) -> Response:
        return Json(catalog.page([catalog.model(one, self._root(request)) for one in MODELS.values()]))

    async def search(self, request: Request) -> Response:
        query = (await read_body(request)).decode("utf-8", "replace")
        return Json(catalog.page([catalog.model(one, self._root(request)) for one in catalog.matching(query)]))

    def model(self, request: Request, owner: str, name: str) -> Response:
        return Json(catalog.model(_model(owner, name), self._root(request)))

    def versions(self, owner: str, name: str) -> Response:
        model = _model(owner, name)
        return Json(catalog.page([catalog.version(model, model.version)]))

    def version(self, owner: str, name: str, version_id: str) -> Response:
        found = of_version(f"{owner}/{name}:{version_id}")
        if found is None:
            raise errors.not_found(f"version {owner}/{name}:{version_id}")
        return Json(catalog.version(*found))

    def deployments(self) -> Response:
        return Json(catalog.page([catalog.deployment(one.owner, one.name, one) for one in MODELS.values()]))

    def deployment(self, owner: str, name: str) -> Response:
        model = model_of(owner, name) or next(iter(MODELS.values()))
        return Json(catalog.deployment(owner[:SHOWN], name[:SHOWN], model))

    def secret(self, request: Request) -> Response:
        return Json({"key": secret_text(self.context, request.state.owner)})

    def account(self) -> Response:
        return Json(catalog.ACCOUNT)

    def hardware(self) -> Response:
        return Json([catalog.HARDWARE])

    def collections(self) -> Response:
        return Json(catalog.page([catalog.COLLECTION]))

    def collection(self, request: Request, slug: str) -> Response:
        if slug != catalog.COLLECTION["slug"]:
            raise errors.not_found(f"collection {slug}")
        return Json(catalog.collection(self._root(request)))

    def trainings(self) -> Response:
        return Json(catalog.page([]))

    def _root(self, request: Request) -> str:
        return root(self.context, request, "/replicate")


def _model(owner: str, name: str) -> Model:
    model = model_of(owner, name)
    if model is None:
        raise errors.not_found(f"model {owner}/{name}")
    return model

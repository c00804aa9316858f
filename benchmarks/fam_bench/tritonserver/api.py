"""A running server, asked over HTTP: pictures, models, statistics and metrics."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from fam_bench.tritonserver.errors import TritonServerError
from fam_bench.tritonserver.ports import LOCALHOST, Ports

REQUEST_TIMEOUT_S = 60.0

LOAD_TIMEOUT_S = 120.0
"""A model may read gigabytes before it is ready."""


class ServerApi:
    """What a server on 127.0.0.1 answers; statuses and texts as it gives them.

    Args:
        ports: of the server.
    """

    def __init__(self, ports: Ports) -> None:
        self.ports = ports

    @property
    def http_address(self) -> str:
        """`127.0.0.1:port`, as the clients take it."""
        return f"{LOCALHOST}:{self.ports.http}"

    @property
    def grpc_address(self) -> str:
        """`127.0.0.1:port`, as the clients take it."""
        return f"{LOCALHOST}:{self.ports.grpc}"

    def request(
        self, path: str, document: object = None, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> tuple[int, str]:
        """Status and text of `GET path`, or of `POST path` when there is a document to send."""
        return _request(f"http://{self.http_address}{path}", document, timeout_s)

    def infer(
        self, model: str, document: object, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> tuple[int, Any]:
        """Status and answer of a request in the JSON of the inference protocol."""
        status, text = self.request(f"/v2/models/{model}/infer", document, timeout_s=timeout_s)
        return status, json.loads(text)

    def load(self, model: str, *, timeout_s: float = LOAD_TIMEOUT_S) -> tuple[int, str]:
        """Loads or reloads a model; status and text, which is empty on success."""
        return self.request(f"/v2/repository/models/{model}/load", {}, timeout_s=timeout_s)

    def unload(self, model: str, *, timeout_s: float = LOAD_TIMEOUT_S) -> tuple[int, str]:
        """Begins to unload a model; status and text, which is empty on success."""
        return self.request(f"/v2/repository/models/{model}/unload", {}, timeout_s=timeout_s)

    def index(self) -> dict[str, str]:
        """The state of each model of the repository; empty for one that was never loaded."""
        models = json.loads(self._text("/v2/repository/index", {}))
        return {model["name"]: model.get("state", "") for model in models}

    def statistics(self, model: str) -> dict[str, Any]:
        """Counts and times of the model's one version, as Triton names them."""
        statistics: dict[str, Any] = json.loads(self._text(f"/v2/models/{model}/stats"))
        return dict(statistics["model_stats"][0])

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the metric's samples that have these labels.

        Raises:
            LookupError: there is none.
        """
        _, text = _request(
            f"http://{LOCALHOST}:{self.ports.metrics}/metrics", None, REQUEST_TIMEOUT_S
        )
        samples = list(_samples(text, name))
        values = [value for have, value in samples if labels.items() <= have.items()]
        if not values:
            raise LookupError(f"no sample {name} with {labels}; there are {samples}")
        return sum(values)

    def _text(self, path: str, document: object = None) -> str:
        status, text = self.request(path, document)
        if status != 200:
            raise TritonServerError(f"{path}: HTTP {status}: {text}")
        return text


def _request(url: str, document: object, timeout_s: float) -> tuple[int, str]:
    data = None if document is None else json.dumps(document).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, data), timeout=timeout_s) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _samples(text: str, name: str) -> Iterator[tuple[dict[str, str], float]]:
    """Labels and value of every sample of a metric, from Prometheus's text format."""
    for line in text.splitlines():
        sample = re.fullmatch(rf"{re.escape(name)}(?:\{{(.*)\}})? (\S+)", line)
        if sample:
            labels = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', sample[1] or "")
            yield dict(labels), float(sample[2])

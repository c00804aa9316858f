"""Requests in, pictures out: one pipeline for all requests that Triton hands over together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fam_runtime.errors import Cancelled, InvalidRequest, TargetNotBuilt
from fam_runtime.progress import NoProgress
from fam_runtime.request import PictureRequest, Request, resolve_request
from fam_runtime.settings import settings_of_picture
from fam_runtime.triton.interface import CANCELLED_METRIC, PICTURES_METRIC, REFUSED_METRIC
from fam_runtime.triton.served.answer import answer_from_pictures
from fam_runtime.triton.served.client_request import ClientRequest
from fam_runtime.triton.served.counters import Counters
from fam_runtime.triton.served.errors import described
from fam_runtime.triton.served.made_picture import MadePicture, is_about_a_request, warnings_about
from fam_runtime.triton.served.response_cache import ResponseCache
from fam_runtime.triton.served.run_progress import RunProgress, WantedPicture

if TYPE_CHECKING:
    from fam_runtime.pipeline import FamPipeline


@dataclass(frozen=True)
class ServiceOptions:
    """How pictures are made and kept.

    Attributes:
        pictures_per_batch: pictures of equal requests that go through a graph together.
        max_steps: a request for more is refused; None: the schedule's own limit.
        cache_bytes: of pictures that are kept for requests that come again.
    """

    pictures_per_batch: int = 1
    max_steps: int | None = None
    cache_bytes: int = 0


@dataclass(eq=False)
class _Order:
    """One request with its pictures, which arrive in any order.

    Attributes:
        resolved: per picture, the checked call of that picture alone.
        settings: per picture, everything that makes it again.
        pictures: per picture, once it is there.
    """

    request: ClientRequest
    resolved: list[Request]
    settings: list[dict[str, Any]]
    pictures: list[MadePicture | None]


@dataclass(frozen=True, eq=False)
class _Job:
    """One picture of an order."""

    order: _Order
    index: int

    @property
    def resolved(self) -> Request:
        """The checked call of this picture alone."""
        return self.order.resolved[self.index]

    @property
    def picture(self) -> PictureRequest:
        """Its texts and seed."""
        return self.resolved.pictures[0]

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that makes it again."""
        return self.order.settings[self.index]


class PictureService:
    """Answers requests with a pipeline.

    Args:
        pipe: makes the pictures.
        options: how.
        counters: of the metrics port.
        log: told what is for who runs the server.
    """

    def __init__(
        self,
        pipe: FamPipeline,
        options: ServiceOptions,
        counters: Counters,
        log: Callable[[str], object],
    ) -> None:
        self.pipe, self.options = pipe, options
        self._counters, self._log = counters, log
        self._cache = ResponseCache(options.cache_bytes)

    def answer(self, requests: Sequence[ClientRequest]) -> None:
        """Answer every request, with pictures or with an error of its own; it raises nothing.

        Pictures whose requests are equal but for texts and seeds are made together, up to
        `pictures_per_batch`. Whatever happens to one request is no other's business.
        """
        orders = [order for request in requests if (order := self._order(request)) is not None]
        jobs = [_Job(order, i) for order in orders for i in range(len(order.resolved))]
        for batch in batches_of_equal(jobs, self.options.pictures_per_batch):
            self._run([job for job in batch if self._is_to_be_made(job)])
        for order in orders:
            if not order.request.answered:
                self._finish(order)

    def close(self) -> None:
        """Free the graphs."""
        self.pipe.close()

    def _order(self, request: ClientRequest) -> _Order | None:
        """The checked request; None where it was refused, which its client was told."""
        pipe = self.pipe
        try:
            resolved = [self._resolve(arguments) for arguments in request.arguments()]
            settings = [
                settings_of_picture(pipe.bundle, one, one.pictures[0], pipe.made_with, None)
                for one in resolved
            ]
            _check_one_size(resolved)
        except Exception as error:
            self._fail(request, error)
            return None
        return _Order(request, resolved, settings, [None] * len(resolved))

    def _resolve(self, arguments: dict[str, Any]) -> Request:
        """The checked call of one picture.

        Raises:
            InvalidRequest: an argument cannot be used.
        """
        try:
            resolved = resolve_request(
                self.pipe.bundle,
                **arguments,
                pictures_per_batch=self.options.pictures_per_batch,
                low_memory=self.pipe.low_memory,
            )
        except TargetNotBuilt as error:
            # The runtime names the command that adds the target, with the bundle's path: that is
            # for who runs the server.
            raise TargetNotBuilt(
                error.what, expected=error.expected, fix="ask for one of these sizes"
            ) from error
        limit = self.options.max_steps
        if limit is not None and resolved.num_inference_steps > limit:
            raise InvalidRequest(
                "num_inference_steps is above what this server allows",
                got=resolved.num_inference_steps,
                expected=f"at most {limit}",
                fix="ask for fewer steps",
            )
        return resolved

    def _is_to_be_made(self, job: _Job) -> bool:
        """Whether a picture's client waits for it, and it has not been made before."""
        request = job.order.request
        if request.answered:
            return False
        if request.cancelled:
            self._fail(request, Cancelled("the request was cancelled before its turn"))
            return False
        job.order.pictures[job.index] = kept = self._cache.get(job.settings)
        return kept is None

    def _run(self, jobs: Sequence[_Job]) -> None:
        """Make the pictures of equal jobs in one call of the pipeline.

        Where that fails, each is made alone: what ended the call may be one picture's matter.
        """
        if not jobs:
            return
        try:
            made = self._made(jobs)
        except Exception as error:
            if len(jobs) > 1 and not isinstance(error, Cancelled):
                self._log(f"a batch of {len(jobs)} failed and is made one by one: {error}")
                for job in jobs:
                    self._run([job] if self._is_to_be_made(job) else [])
                return
            for job in jobs:
                self._fail(job.order.request, error)
            return
        for job, picture in zip(jobs, made, strict=True):
            job.order.pictures[job.index] = picture
            self._cache.put(job.settings, picture)

    def _made(self, jobs: Sequence[_Job]) -> list[MadePicture]:
        """The pictures of equal jobs.

        Raises:
            FamError: they cannot be made, or no client waits for them any more.
        """
        pipe = self.pipe
        wanted = [WantedPicture(job.order.request, job.index) for job in jobs]
        pipe.progress = RunProgress(pipe, wanted, self._counters, self._log)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                images = pipe(**_arguments(jobs)).images
        finally:
            pipe.progress = NoProgress()
        for warning in caught:
            if not is_about_a_request(warning.message):
                self._log(str(warning.message))
        self._counters.count(PICTURES_METRIC, len(jobs))
        return [
            MadePicture(np.asarray(image, np.uint8), warnings_about(job.picture, caught))
            for job, image in zip(jobs, images, strict=True)
        ]

    def _finish(self, order: _Order) -> None:
        """Answer with the pictures, unless nobody waits for them any more."""
        request = order.request
        try:
            if request.cancelled:
                raise Cancelled("the request was cancelled")
            pictures = [picture for picture in order.pictures if picture is not None]
            request.finish(answer_from_pictures(pictures, order.settings, request.wants))
        except Exception as error:
            self._fail(request, error)

    def _fail(self, request: ClientRequest, error: Exception) -> None:
        """Tell the client what ended its request, and count it."""
        if request.answered:
            return
        if isinstance(error, Cancelled):
            self._counters.count(CANCELLED_METRIC)
        elif isinstance(error, InvalidRequest):
            self._counters.count(REFUSED_METRIC)
        try:
            request.fail(error)
        except Exception as failure:
            self._log(f"a client could not be told of an error: {described(failure)}")


def batches_of_equal(jobs: Sequence[_Job], size: int) -> list[list[_Job]]:
    """Jobs that may share a call, in order of arrival, at most `size` of them in each batch."""
    batches: list[list[_Job]] = []
    for job in jobs:
        for batch in batches:
            if len(batch) < size and _shared(batch[0].resolved) == _shared(job.resolved):
                batch.append(job)
                break
        else:
            batches.append([job])
    return batches


def _shared(request: Request) -> Request:
    """A checked call without what may differ between the pictures of a batch."""
    return replace(request, pictures=())


def _arguments(jobs: Sequence[_Job]) -> dict[str, Any]:
    """One call of the pipeline for jobs that are equal but for texts and seeds."""
    shared = jobs[0].resolved
    return {
        "prompt": [job.picture.prompt for job in jobs],
        "negative_prompt": [job.picture.negative_prompt for job in jobs],
        "seed": [job.picture.seed for job in jobs],
        "height": shared.target.height,
        "width": shared.target.width,
        "num_inference_steps": shared.num_inference_steps,
        "guidance_scale": shared.guidance_scale,
        "method": shared.method_name,
        "scheduler": shared.scheduler,
        "am_strength": shared.am_strength,
        "noise": shared.noise,
        "pictures_per_batch": shared.pictures_per_batch,
    }


def _check_one_size(resolved: Sequence[Request]) -> None:
    """One tensor holds pictures of one size.

    Raises:
        InvalidRequest: they have several.
    """
    sizes = {str(one.target.size) for one in resolved}
    if len(sizes) > 1:
        raise InvalidRequest(
            "the pictures of a request differ in size",
            got=", ".join(sorted(sizes)),
            expected="one size for all, because they come back in one tensor",
            fix="send a request for each size",
        )

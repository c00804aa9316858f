"""Whole pictures by programs that are no Python of ours: `fam_generate` in C++, a Triton server."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np

from fam_bench.latency.contestants import BY_NAME
from fam_bench.latency.feeds import PROMPT, SEED
from fam_bench.latency.libraries.cpp_pictures import CppPictures
from fam_bench.latency.libraries.triton_pictures import TritonPictures
from fam_bench.latency.units import WorkerJob
from fam_bench.latency.work.base import Arrays, Work


class ProgramPicture(Work):
    """A picture by another process, which stays loaded; seconds are those until it is here."""

    def __init__(self, job: WorkerJob) -> None:
        super().__init__()
        # Within the benchmark's own, which goes even if this process is killed: a server's models
        # are a copy of the bundle.
        near = Path(job.results).parent
        self._folder = tempfile.TemporaryDirectory(prefix="pictures-", dir=near)
        maker = CppPictures if BY_NAME[job.contestant].way == "cpp" else TritonPictures
        try:
            self._maker: CppPictures | TritonPictures = maker(
                Path(job.bundle),
                Path(self._folder.name),
                prompt=PROMPT,
                scale=job.scale,
                steps=job.steps,
                seed=SEED,
                threads=job.threads,
                device=job.device,
            )
        except BaseException:
            self._folder.cleanup()
            raise

    def once(self) -> None:
        """A picture as a PNG, from the prompt on."""
        self.stages = dict(self._maker.picture().stage_seconds)

    def results(self) -> Arrays:
        """The picture, uint8 ``[height, width, 3]``."""
        from PIL import Image

        with Image.open(io.BytesIO(self._maker.picture().png)) as image:
            return {"rgb": np.asarray(image.convert("RGB"))}

    def peak_host_bytes(self) -> int:
        """Of the program's processes."""
        return self._maker.peak_host_bytes()

    def close(self) -> None:
        """End it."""
        self._maker.close()
        self._folder.cleanup()

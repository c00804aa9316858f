"""Does a bundle compute, in the library that will run it, what PyTorch computes?

The check that every export makes (:mod:`fam_export.parity`) is about graphs, one at a time. This
one is about libraries and whole runs: PyTorch and every backend make the same picture under the
same pipeline, from the same prompt, seed and settings, so only the library differs. The reference
is PyTorch in fp32 with the weights that the bundle holds.

1. Every graph that is no step, on PyTorch's inputs.
2. Every step of both stages, from PyTorch's latent (:mod:`fam_export.verify.contest`).
3. A run of the backend's own: the latents and the picture that it ends in.

Polygraphy compares libraries on inputs of one network. We compare loops: two step graphs that hand
latents and native attention to each other, fed by a sampler, against modules that are no ONNX
graphs. With its comparator that loop would be written a second time, and what it would spare us is
a few lines of NumPy; so it is not used. Where a step is off, its tool for bisecting a network
(``polygraphy debug``) is the one to reach for.
"""

from fam_export.verify.choice import BackendChoice, every_backend
from fam_export.verify.report import Comparison, ContestantReport, VerifyReport
from fam_export.verify.verify import DEFAULT_STEPS, verify_bundle

__all__ = [
    "DEFAULT_STEPS",
    "BackendChoice",
    "Comparison",
    "ContestantReport",
    "VerifyReport",
    "every_backend",
    "verify_bundle",
]

"""Is an exported graph its module? Found out before anything is published.

- A graph is compared on random inputs with the PyTorch module, both in fp32: the module with the
  weights as the graph holds them, the graph **widened** (its half-precision types replaced by
  fp32). So one strict tolerance serves every precision.
- A UNet too large for a forward pass at its sizes is compared through its **twin**: the same
  export at a tiny latent, with the same weights, and node for node the same graph.
- What needs much memory runs in a process of its own.
"""

from fam_export.parity.check import CHECK_THREADS, Parity
from fam_export.parity.process import check_in_own_process
from fam_export.parity.request import GraphCheck, run_check

__all__ = ["CHECK_THREADS", "GraphCheck", "Parity", "check_in_own_process", "run_check"]

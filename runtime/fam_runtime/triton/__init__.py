"""A bundle behind Triton Inference Server: the model repository, and the models in it.

`fam-triton` writes the repository (:mod:`fam_runtime.triton.repository`); the server's Python
backend runs :mod:`fam_runtime.triton.served` out of it. docs/triton.md is the user's page.
"""

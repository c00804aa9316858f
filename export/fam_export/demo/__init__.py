"""The demo checkpoint that ships with the project: its world, its training, its evaluation.

`checkpoint/` is a small, trained latent diffusion model in diffusers' folder layout; MODEL_CARD.md
says what it is.  `scenes` and `recognise` need NumPy and Pillow only and are meant to be imported
by benchmarks; the training modules need torch, diffusers and transformers.
"""

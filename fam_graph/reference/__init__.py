"""The method written down literally: slow, dense, with an FFT, and obviously right.

Everything fast is tested against this package, and it is the PyTorch baseline of the benchmarks.
It runs diffusers' own UNet, VAE, text encoders and schedulers.
"""

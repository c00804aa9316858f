"""The FAM Diffusion method as traceable PyTorch modules, and the literal reference beside them."""

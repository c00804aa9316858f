"""What Triton's Python backend runs: each module is one kind of model.

``triton_python_backend_utils`` exists only inside the backend's process, so nothing here imports it
before a model is initialized.
"""

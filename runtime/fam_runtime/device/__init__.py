"""A GPU behind a small interface: memory, one stream, captured graphs; and stages that run on it.

Nothing here knows an inference library: a backend gives a :class:`~fam_runtime.device.graph.
DeviceGraph` per graph, and inherits the rest. docs/buffer_plan.md draws what lies where.
"""

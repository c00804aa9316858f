"""NVIDIA TensorRT and TensorRT for RTX: engines built from a bundle's graphs, cached, and run.

The two libraries share their builder's interface; :mod:`.library` names what differs. Data flows
one way: :mod:`.settings` and :mod:`.shapes` say what is wanted, :mod:`.engine_key` names it,
:mod:`.network` parses the graph, :mod:`.build` builds it, :mod:`.cache` keeps the plan,
:mod:`.engines` puts these together; :mod:`.engine` runs a plan, :mod:`.graph` chooses between
engines by size, :mod:`.backend` is the face.

Polygraphy is not used to build: it decides once per process, by an environment variable, which of
the two libraries it means, and imports the second only under the name of a package that may be
absent. It remains the tool to look at our graphs with (docs/engines.md).
"""

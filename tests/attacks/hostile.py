"""Ways to spoil a bundle; each takes its root and does one thing."""

from __future__ import annotations

import hashlib
import json
import os

import onnx
from onnx.external_data_helper import set_external_data

OTHER_LOCATIONS = (
    "/etc/passwd",
    "../unet/weights.bin",
    "./weights.bin",
    "native.onnx",
    "weights.json",
    "model.bin",
    "weights.bin\0",
    "",
    "*/_ORT_MEM_ADDR_/*",
)
"""Where external data may not lie; the last one is how ONNX Runtime calls its own memory."""


def edit_manifest(root, edit):
    """Change manifest.json as somebody would who does not use our writer."""
    path = root / "manifest.json"
    document = json.loads(path.read_text("utf-8"))
    edit(document)
    path.write_text(json.dumps(document), "utf-8")


def rename_file(root, name, new):
    """Let the manifest call the file `name` by another name."""

    def edit(document):
        document["files"][new] = document["files"].pop(name)

    edit_manifest(root, edit)


def record_again(root, name):
    """An attacker can compute hashes too."""
    data = (root / name).read_bytes()
    record = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_manifest(root, lambda document: document["files"].update({name: record}))


def replace_graph(root, name, model):
    (root / name).write_bytes(model.SerializeToString())
    record_again(root, name)


def external_tensor(location, *, offset=0, length=4):
    tensor = onnx.TensorProto(name="stolen", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.raw_data = b"\0\0\0\0"
    set_external_data(tensor, location, offset, length)
    tensor.ClearField("raw_data")
    return tensor


def _in_initializer(model, tensor):
    model.graph.initializer.append(tensor)


def _in_sparse_initializer(model, tensor):
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)


def _in_attribute(model, tensor):
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["stolen"], value=tensor))


def _in_tensor_list(model, tensor):
    attribute = model.graph.node[0].attribute.add(name="many", type=onnx.AttributeProto.TENSORS)
    attribute.tensors.append(tensor)


def _in_sparse_attribute(model, tensor):
    kind = onnx.AttributeProto.SPARSE_TENSOR
    attribute = model.graph.node[0].attribute.add(name="sparse", type=kind)
    attribute.sparse_tensor.indices.CopyFrom(tensor)


def _in_sparse_list(model, tensor):
    kind = onnx.AttributeProto.SPARSE_TENSORS
    attribute = model.graph.node[0].attribute.add(name="sparse", type=kind)
    attribute.sparse_tensors.add().values.CopyFrom(tensor)


def _in_subgraph(model, tensor):
    inner = onnx.helper.make_graph([], "inner", [], [], [tensor])
    outer = onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    middle = onnx.helper.make_graph([outer], "middle", [], [])
    model.graph.node.append(
        onnx.helper.make_node("If", ["x"], ["z"], then_branch=middle, else_branch=middle)
    )


def _in_graph_list(model, tensor):
    attribute = model.graph.node[0].attribute.add(name="all", type=onnx.AttributeProto.GRAPHS)
    attribute.graphs.append(onnx.helper.make_graph([], "inner", [], [], [tensor]))


def _in_function(model, tensor):
    node = onnx.helper.make_node("Constant", [], ["y"], value=tensor)
    opsets = [onnx.helper.make_opsetid("", 20)]
    model.functions.append(onnx.helper.make_function("evil", "F", [], ["y"], [node], opsets))


def _in_training(model, tensor):
    model.training_info.add().algorithm.initializer.append(tensor)


def _in_initialization(model, tensor):
    model.training_info.add().initialization.initializer.append(tensor)


PLACES = {
    "initializer": _in_initializer,
    "sparse initializer": _in_sparse_initializer,
    "attribute": _in_attribute,
    "attribute with tensors": _in_tensor_list,
    "sparse attribute": _in_sparse_attribute,
    "attribute with sparse tensors": _in_sparse_list,
    "subgraph": _in_subgraph,
    "attribute with graphs": _in_graph_list,
    "function": _in_function,
    "training": _in_training,
    "initialization of training": _in_initialization,
}
"""Every place in an ONNX model where a tensor can stand."""


def symbolic_link(path, outside):
    path.rename(outside)
    path.symlink_to(outside)


def linked_directory(path, outside):
    path.parent.rename(outside)
    path.parent.symlink_to(outside, target_is_directory=True)


def hard_link(path, outside):
    os.link(path, outside)


def pipe(path, outside):
    path.unlink()
    os.mkfifo(path)


def directory(path, outside):
    path.unlink()
    path.mkdir()


def file_for_folder(path, outside):
    path.parent.rename(outside)
    path.parent.write_bytes(b"")

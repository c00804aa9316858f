"""What the parts of a manifest must say about each other (docs/bundle_format.md)."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import TYPE_CHECKING

from fam_runtime import contract
from fam_runtime.bundle.manifest_parts import GraphSpec, PixelSize, TensorSpec
from fam_runtime.errors import BundleDamaged, BundleVersionUnsupported

if TYPE_CHECKING:
    from fam_runtime.bundle.manifest import Manifest

_NATIVE = "unet/native.onnx"
_WEIGHTS = ("unet/weights.bin", "unet/weights.json")


def check_references(manifest: Manifest) -> None:
    """Hold the parts of `manifest` against each other.

    Raises:
        BundleDamaged: naming the first contradiction.
        BundleVersionUnsupported: if a step graph takes an input this version cannot feed.
    """
    for check in _CHECKS:
        check(manifest)


def _files(manifest: Manifest) -> None:
    if "manifest.json" in manifest.files:
        raise _contradiction("files", got="manifest.json", expected="every file except itself")
    for name in manifest.files:
        parents = name.split("/")[:-1]
        for i in range(1, len(parents) + 1):
            if "/".join(parents[:i]) in manifest.files:
                raise _contradiction(
                    "files", got=name, expected=f"{'/'.join(parents[:i])} to be a file or a folder"
                )
    listed = [name for name in _WEIGHTS if name in manifest.files]
    if len(listed) == 1:
        raise _contradiction("files", got=listed, expected=" and ".join(_WEIGHTS) + " together")


def _graphs(manifest: Manifest) -> None:
    for name in manifest.graphs:
        if not name.endswith(".onnx"):
            raise _contradiction("graphs", got=name, expected="a name that ends with .onnx")
        _require(name, manifest.files, f"graphs[{name!r}]", "files")
    _require(_NATIVE, manifest.graphs, "the native step", "graphs")
    _require(manifest.vae.encoder, manifest.graphs, "vae.encoder", "graphs")
    _require(manifest.vae.decoder, manifest.graphs, "vae.decoder", "graphs")
    for i, target in enumerate(manifest.targets):
        _require(target.step, manifest.graphs, f"targets[{i}].step", "graphs")
        _require(target.upsample, manifest.graphs, f"targets[{i}].upsample", "graphs")
        _require(target.kernels, manifest.files, f"targets[{i}].kernels", "files")


def _text_encoders(manifest: Manifest) -> None:
    if not manifest.text_encoders:
        raise _contradiction("text_encoders", got=0, expected="at least one text encoder")
    for i, encoder in enumerate(manifest.text_encoders):
        _require(encoder.graph, manifest.graphs, f"text_encoders[{i}].graph", "graphs")
        _require(encoder.tokenizer, manifest.files, f"text_encoders[{i}].tokenizer", "files")


def _sizes(manifest: Manifest) -> None:
    model, native = manifest.model, manifest.native
    if model.size_multiple % model.vae_scale_factor:
        raise _contradiction(
            "model.size_multiple",
            got=model.size_multiple,
            expected=f"a multiple of vae_scale_factor, {model.vae_scale_factor}",
        )
    _multiple("native", native, model.size_multiple)
    previous = None
    for i, target in enumerate(manifest.targets):
        place = f"targets[{i}]"
        _multiple(place, target.size, model.size_multiple)
        if target.height < native.height or target.width < native.width:
            raise _contradiction(
                place, got=str(target.size), expected=f"no side smaller than native, {native}"
            )
        if previous is not None and target.size <= previous:
            raise _contradiction(
                place, got=str(target.size), expected=f"sorted and unique sizes, after {previous}"
            )
        previous = target.size


def _multiple(place: str, size: PixelSize, multiple: int) -> None:
    if size.height % multiple or size.width % multiple:
        raise _contradiction(
            place, got=str(size), expected=f"sides that are multiples of size_multiple, {multiple}"
        )


def _model(manifest: Manifest) -> None:
    if manifest.model.guidance and manifest.model.guidance_embedding:
        raise _contradiction(
            "model.guidance_embedding",
            got="true together with guidance",
            expected="at most one of guidance and guidance_embedding",
        )
    is_sdxl = manifest.model.family == "sdxl"
    if is_sdxl != (manifest.size_conditions is not None):
        raise _contradiction(
            "size_conditions",
            got=manifest.size_conditions or "null",
            expected="'stage' or 'native' for sdxl" if is_sdxl else "null for sd",
        )
    steps = manifest.noise_schedule["num_train_timesteps"]
    if manifest.defaults.num_inference_steps > steps:
        raise _contradiction(
            "defaults.num_inference_steps",
            got=manifest.defaults.num_inference_steps,
            expected=f"at most num_train_timesteps, {steps}",
        )


def _taps(manifest: Manifest) -> None:
    names: set[str] = set()
    height, width = manifest.latent_size(manifest.native)
    for i, layer in enumerate(manifest.taps.layers):
        place = f"taps.layers[{i}]"
        if layer.name in names:
            raise _contradiction(place, got=layer.name, expected="every layer once")
        names.add(layer.name)
        if layer.channels % layer.heads:
            raise _contradiction(
                place, got=layer.channels, expected=f"channels divisible by {layer.heads} heads"
            )
        if layer.tokens[0] > height or layer.tokens[1] > width:
            raise _contradiction(
                place, got=layer.tokens, expected=f"a grid within the latent, {height}x{width}"
            )


def _step_graphs(manifest: Manifest) -> None:
    """The native graph's taps are the target graphs' inputs: one buffer serves both."""
    tap_names = [
        name
        for layer in manifest.taps.layers
        for name in contract.tap_names(layer.name, manifest.taps.form)
    ]
    outputs = [contract.NEXT_LATENT, contract.PREDICTION]
    inputs = _step_inputs(manifest)
    native = manifest.graphs[_NATIVE]
    _names(f"graphs[{_NATIVE!r}].inputs", native.inputs, inputs)
    _names(f"graphs[{_NATIVE!r}].outputs", native.outputs, outputs + tap_names)
    _tap_specs(manifest, native)
    _latents(manifest, _NATIVE, manifest.latent_size(manifest.native))
    for target in manifest.targets:
        graph, place = manifest.graphs[target.step], f"graphs[{target.step!r}]"
        _names(f"{place}.inputs", graph.inputs, inputs + _TARGET_INPUTS + tap_names)
        _names(f"{place}.outputs", graph.outputs, outputs)
        _latents(manifest, target.step, manifest.latent_size(target))
        given = {spec.name: spec for spec in native.outputs}
        for spec in graph.inputs:
            if spec.name in tap_names and spec != given[spec.name]:
                raise _contradiction(
                    f"{place}.inputs: {spec.name}",
                    got=(spec.dtype, spec.shape),
                    expected=f"what the native graph gives, {given[spec.name].shape}",
                )


def _latents(manifest: Manifest, graph: str, size: tuple[int, int]) -> None:
    """Every latent of a step graph has the size of its stage."""
    shape = ("B", manifest.model.latent_channels, *size)
    spec = manifest.graphs[graph]
    for tensor in (*spec.inputs, *spec.outputs):
        if tensor.name in _LATENTS and (tensor.dtype, tensor.shape) != ("float32", shape):
            raise _contradiction(
                f"graphs[{graph!r}]: {tensor.name}",
                got=(tensor.dtype, tensor.shape),
                expected=f"float32 {shape}",
            )


def _tap_specs(manifest: Manifest, native: GraphSpec) -> None:
    """Each tap has the dtype of the model and the shape of its layer."""
    given = {spec.name: spec for spec in native.outputs}
    batch, dtype = "2B" if manifest.model.guidance else "B", manifest.model.tap_dtype
    for layer in manifest.taps.layers:
        n = layer.token_count
        shape: tuple[int | str, ...] = (batch, n, layer.channels)
        if manifest.taps.form == "maps":
            shape = (batch, layer.heads, n, n)
        for name in contract.tap_names(layer.name, manifest.taps.form):
            spec = given[name]
            if (spec.dtype, spec.shape) != (dtype, shape):
                raise _contradiction(
                    f"graphs[{_NATIVE!r}].outputs: {name}",
                    got=(spec.dtype, spec.shape),
                    expected=f"what model.dtype and the layer say, {dtype} {shape}",
                )


def _other_graphs(manifest: Manifest) -> None:
    """The graphs around the UNet have the names that the runtime calls them by."""
    for target in manifest.targets:
        _interface(manifest, target.upsample, contract.LATENT, contract.REFERENCE_LATENT)
    _interface(manifest, manifest.vae.encoder, contract.IMAGE, contract.LATENT)
    _interface(manifest, manifest.vae.decoder, contract.LATENT, contract.IMAGE)
    pooled = False
    for encoder in manifest.text_encoders:
        names = {spec.name for spec in manifest.graphs[encoder.graph].outputs}
        outputs = [contract.PROMPT_EMBEDS]
        if contract.POOLED_PROMPT_EMBEDS in names:
            outputs.append(contract.POOLED_PROMPT_EMBEDS)
            pooled = True
        _interface(manifest, encoder.graph, contract.INPUT_IDS, *outputs)
    if manifest.model.family == "sdxl" and not pooled:
        raise _contradiction(
            "text_encoders",
            got=f"no {contract.POOLED_PROMPT_EMBEDS}",
            expected="one encoder of an sdxl model to give it",
        )


def _interface(manifest: Manifest, graph: str, input_name: str, *outputs: str) -> None:
    spec, place = manifest.graphs[graph], f"graphs[{graph!r}]"
    _names(f"{place}.inputs", spec.inputs, [input_name])
    _names(f"{place}.outputs", spec.outputs, list(outputs))


_LATENTS = frozenset(
    {
        contract.LATENT,
        contract.PREVIOUS_PREDICTION,
        contract.STEP_NOISE,
        contract.REFERENCE_LATENT,
        contract.REFERENCE_NOISE,
        contract.NEXT_LATENT,
        contract.PREDICTION,
    }
)
_TARGET_INPUTS = [
    contract.REFERENCE_LATENT,
    contract.REFERENCE_NOISE,
    contract.FM_KERNEL_ROWS,
    contract.FM_KERNEL_COLUMNS,
    contract.FM_WEIGHT,
    contract.AM_STRENGTH,
]


def _step_inputs(manifest: Manifest) -> list[str]:
    names = [
        contract.LATENT,
        contract.TIMESTEP,
        contract.STEP_COEFFICIENTS,
        contract.PREVIOUS_PREDICTION,
        contract.STEP_NOISE,
        contract.PROMPT_EMBEDS,
    ]
    if manifest.model.takes_guidance_scale:
        names.append(contract.GUIDANCE_SCALE)
    if manifest.model.family == "sdxl":
        names += [contract.POOLED_PROMPT_EMBEDS, contract.TIME_IDS]
    return names


def _names(place: str, specs: Iterable[TensorSpec], required: list[str]) -> None:
    have = {spec.name for spec in specs}
    for name in required:
        if name not in have:
            raise _contradiction(place, got=f"no {name}", expected=", ".join(required))
    unknown = sorted(have - set(required))
    if unknown:
        raise BundleVersionUnsupported(
            f"manifest.json: {place} has a name this version does not know",
            got=unknown[0],
            expected=", ".join(required),
            fix="upgrade this package, or export the checkpoint again with this version",
        )


def _require(name: str, table: Container[str], place: str, where: str) -> None:
    if name not in table:
        raise _contradiction(place, got=name, expected=f"a file listed in {where}")


def _contradiction(place: str, *, got: object, expected: str) -> BundleDamaged:
    return BundleDamaged(
        f"manifest.json: {place} is not right",
        got=got,
        expected=expected,
        fix="get the bundle again or export it again with fam-export",
    )


_CHECKS: tuple[Callable[[Manifest], None], ...] = (
    _files,
    _graphs,
    _text_encoders,
    _sizes,
    _model,
    _taps,
    _step_graphs,
    _other_graphs,
)

"""Train the demo checkpoint: `python -m fam_export.demo.train --stage STAGE --output DIR`.

Stages, in order: text, vae, unet, package.  Each goes on from its checkpoint when started again.
The working directory holds checkpoints, caches and logs; only `package` writes a folder for users.
"""

from __future__ import annotations

import argparse
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import distributed

from fam_export.demo.architecture import DemoSizes, make_unet, make_vae
from fam_export.demo.loop import LoopSettings, train
from fam_export.demo.package import package
from fam_export.demo.train_text import TextTrainee, text_loss
from fam_export.demo.train_unet import make_cache, unet_loss
from fam_export.demo.train_vae import VaeBatch, start_nearly_deterministic, vae_loss
from fam_export.demo.trained import trained_text, trained_unet, trained_vae, untrained_text

CHECKPOINT = Path(__file__).parent / "checkpoint"


def _deadline(text: str) -> float:
    """A UTC time such as 2026-01-31T09:00, or a duration in minutes such as 25, as Unix time."""
    try:
        return time.time() + 60.0 * float(text)
    except ValueError:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def _widths(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train the demo checkpoint, stage by stage.")
    parser.add_argument("--stage", required=True, choices=("text", "vae", "unet", "package"))
    parser.add_argument("--output", required=True, type=Path, help="working directory")
    parser.add_argument(
        "--deadline", type=_deadline, default="25", help="UTC time (ISO) or minutes from now"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads a process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fp32", action="store_true", help="train without bfloat16 autocast")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--batch", type=int, help="pictures a step and process")
    parser.add_argument("--scenes", type=int, default=24_000, help="scenes in the unet's cache")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="package: its folder")
    defaults = DemoSizes()
    parser.add_argument("--native-pixels", type=int, default=defaults.native_pixels)
    parser.add_argument("--vae-channels", type=_widths, default=defaults.vae_channels)
    parser.add_argument("--unet-channels", type=_widths, default=defaults.unet_channels)
    parser.add_argument("--unet-layers", type=int, default=defaults.unet_layers_per_block)
    parser.add_argument("--heads", type=int, default=defaults.attention_heads)
    return parser


def _sizes(options: argparse.Namespace) -> DemoSizes:
    return DemoSizes(
        native_pixels=options.native_pixels,
        vae_channels=options.vae_channels,
        unet_channels=options.unet_channels,
        unet_layers_per_block=options.unet_layers,
        attention_heads=options.heads,
    )


def _train_text(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    text = untrained_text(_sizes(options))
    trainee = TextTrainee(text.encoder).to(options.device)
    settings = LoopSettings(
        name="text",
        output=options.output,
        deadline=options.deadline,
        peak_learning_rate=options.learning_rate or 1e-3,
        ema_decay=0.99,
        seed=options.seed,
    )
    train(trainee, text_loss(trainee, text.tokenizer, options.batch or 48), settings)


def _train_vae(options: argparse.Namespace) -> None:
    sizes = _sizes(options)
    torch.manual_seed(options.seed)
    vae = make_vae(sizes).to(options.device)
    start_nearly_deterministic(vae)
    crops = options.batch or 16
    batch = VaeBatch(crops, max(crops // 4, 1), max(crops * 3 // 8, 1), sizes.native_pixels)
    settings = LoopSettings(
        name="vae",
        output=options.output,
        deadline=options.deadline,
        peak_learning_rate=options.learning_rate or 1.2e-3,
        weight_decay=0.0,
        seed=options.seed,
    )
    train(vae, vae_loss(vae, batch, bf16=not options.fp32), settings)


def _train_unet(options: argparse.Namespace) -> None:
    sizes = _sizes(options)
    text = trained_text(sizes, options.output)
    vae = trained_vae(sizes, options.output).to(options.device)
    encoder = text.encoder.to(options.device)
    folder = options.output / "cache"
    cache = make_cache(vae, encoder, text.tokenizer, sizes.native_pixels, options.scenes, folder)
    torch.manual_seed(options.seed)
    unet = make_unet(sizes).to(options.device)
    settings = LoopSettings(
        name="unet",
        output=options.output,
        deadline=options.deadline,
        peak_learning_rate=options.learning_rate or 6e-4,
        seed=options.seed,
    )
    train(unet, unet_loss(unet, cache, options.batch or 48, bf16=not options.fp32), settings)


def _package(options: argparse.Namespace) -> None:
    sizes = _sizes(options)
    trained = (options.output / "unet.pt").exists()
    unet = trained_unet(sizes, options.output) if trained else make_unet(sizes)
    text, vae = trained_text(sizes, options.output), trained_vae(sizes, options.output)
    size_bytes = package(text, vae, unet, options.checkpoint)
    note = "" if trained else " (the UNet is untrained)"
    print(f"{options.checkpoint}: {size_bytes / 1e6:.1f} MB{note}")


def main(arguments: list[str] | None = None) -> None:
    """Run one stage."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    if "RANK" in os.environ:  # started by torchrun
        distributed.init_process_group("gloo")
    stages = {"text": _train_text, "vae": _train_vae, "unet": _train_unet, "package": _package}
    stages[options.stage](options)


if __name__ == "__main__":
    main()

"""Neural collapse and spectra of a language model on disk."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unseen.lab import UserError
from unseen.measures.neural_collapse import (
    CollapseReport,
    StreamingClassMoments,
    collapse_report,
    decisions_agree,
)
from unseen.measures.spectra import PowerLaw, power_law, squared_singular_values

BLOCK = 8  # windows that the model reads at a time


@dataclasses.dataclass(frozen=True)
class MatrixSpectrum:
    """A weight matrix, its stable rank (0 if it is zero) and the power law of its spectrum's tail."""

    name: str
    shape: tuple[int, ...]
    stable_rank: float
    law: PowerLaw


@dataclasses.dataclass(frozen=True)
class TextCollapse:
    """Collapse on a text: class moments from its first four fifths, loss and agreement from the rest.

    Attributes:
        tokens: predicted in all.
        loss: mean next-token loss on the held-out part, in nats.
        agreement: how often classifier and nearest class mean name the same token there, among the classes kept.
        report: the other properties.
    """

    tokens: int
    loss: float
    agreement: float
    report: CollapseReport


@dataclasses.dataclass(frozen=True)
class CheckpointReport:
    """What `checkpoint_report` finds; `text` is None where no text was given."""

    directory: str
    kind: str
    parameters: int
    matrices: tuple[MatrixSpectrum, ...]
    text: TextCollapse | None


def checkpoint_report(
    directory: str | Path, text: str | Path | None = None, *, minimum: int = 20, context: int = 256
) -> CheckpointReport:
    """Spectra of all weight matrices of a Hugging Face causal language model on disk, and its neural collapse on a
    text. Nothing is downloaded, and only safetensors are read: nothing is unpickled.

    Args:
        directory: with `config.json`, `*.safetensors` and, for a text, a tokenizer.
        text: path of a UTF-8 text file.
        minimum: occurrences in the first four fifths of the text from which a token counts as a class.
        context: tokens of a window; shorter if the model takes fewer.

    Raises:
        UserError: if the packages are missing, the directory holds no such checkpoint, or the text cannot be read or
            is too short.
    """
    directory = Path(directory)
    words = None if text is None else _read(Path(text))
    model, tokenizer = _load(directory, with_tokenizer=words is not None)
    seen = set()
    matrices = []
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and min(weight.shape) > 1 and weight.data_ptr() not in seen:
            seen.add(weight.data_ptr())
            matrices.append(_spectrum(name, weight.detach().float().numpy()))
    return CheckpointReport(
        str(directory),
        model.config.model_type,
        sum(weight.numel() for weight in model.parameters()),
        tuple(matrices),
        None if words is None else _collapse(model, tokenizer, words, minimum, context),
    )


def _spectrum(name: str, weight: Float[np.ndarray, "rows columns"]) -> MatrixSpectrum:
    squares = squared_singular_values(weight)
    rank = float(squares.sum() / squares[0]) if squares[0] > 0 else 0.0
    return MatrixSpectrum(name, weight.shape, rank, power_law(squares))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UserError(f"text takes a readable text file, got {str(path)!r}: {why}.") from error


def _load(directory: Path, *, with_tokenizer: bool) -> tuple[Any, Any]:
    """Model and tokenizer (or None)."""
    try:
        json.loads((directory / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"A checkpoint is a directory with a Hugging Face config.json, got {str(directory)!r}."
        ) from error
    if not any(directory.glob("*.safetensors")):
        raise UserError(f"A checkpoint has its weights in *.safetensors; {str(directory)!r} has none.")
    try:
        import torch
        import transformers
    except ModuleNotFoundError as missing:
        raise UserError(
            f"Reading a checkpoint needs {missing.name}, which is not installed: pip install 'unseen[hf]'."
        ) from missing
    said = transformers.utils.logging
    bars = said.is_progress_bar_enabled()
    said.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            directory, local_files_only=True, use_safetensors=True, dtype=torch.float32
        ).eval()
    except Exception as error:
        raise UserError(f"{str(directory)!r} is no causal language model that transformers reads: {error}") from error
    finally:
        if bars:
            said.enable_progress_bar()
    if not with_tokenizer:
        return model, None
    try:
        return model, transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:
        raise UserError(f"{str(directory)!r} has no tokenizer that transformers reads, which a text needs.") from error


def _collapse(model: Any, tokenizer: Any, words: str, minimum: int, context: int) -> TextCollapse:
    import torch

    context = min(context, getattr(model.config, "max_position_embeddings", None) or context)
    tokens = np.asarray(tokenizer(words, verbose=False)["input_ids"])
    windows = len(tokens) // (context + 1)
    if windows < 5:
        raise UserError(f"text takes at least {5 * (context + 1)} tokens for windows of {context}, got {len(tokens)}.")
    rows = tokens[: windows * (context + 1)].reshape(windows, -1)
    names, compact = np.unique(rows, return_inverse=True)  # a vocabulary is large, a text has few of its tokens
    labels = compact.reshape(rows.shape)[:, 1:]
    head = model.get_output_embeddings()
    weight = head.weight.detach()
    classifier = jnp.asarray(weight.float().numpy()[names])
    cut = windows * 4 // 5

    @torch.inference_mode()
    def read(block: slice) -> tuple[Float[Array, "tokens width"], Int[Array, " tokens"], float]:
        """Features, classes and summed loss of a block of windows."""
        ids = torch.from_numpy(rows[block])
        features = model.base_model(ids[:, :-1]).last_hidden_state
        scores = head(features).float()
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
        flat = features.float().flatten(0, 1).numpy()
        return jnp.asarray(flat), jnp.asarray(labels[block].reshape(-1)), float(loss)

    moments = StreamingClassMoments.empty(len(names), weight.shape[1])
    update, decide = jax.jit(StreamingClassMoments.update), jax.jit(decisions_agree)
    for start in range(0, cut, BLOCK):
        features, classes, _ = read(slice(start, min(start + BLOCK, cut)))
        moments = update(moments, features, classes)
    kept = moments.count >= minimum
    if int(kept.sum()) < 2:
        most = int(moments.count.max())
        raise UserError(f"text takes at least two tokens that occur {minimum} times, got one of {most} times at most.")
    agree, counted, loss = 0, 0, 0.0
    for start in range(cut, windows, BLOCK):
        features, classes, more = read(slice(start, start + BLOCK))
        mine = kept[classes]
        agree += int((mine & decide(features, moments.mean, classifier, kept)).sum())
        counted, loss = counted + int(mine.sum()), loss + more
    report = collapse_report(moments, classifier, minimum=minimum)
    return TextCollapse(
        int(labels.size),
        loss / labels[cut:].size,
        agree / counted if counted else float("nan"),
        report,
    )

"""Write the model card of a ``.subnet`` file: a ``README.md`` with the header that the Hugging Face Hub reads.

Texts in a file may come from a stranger. Each stands on one line in a code span, where Markdown and HTML mean nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_subnets import atomic_file, methods
from lightning_subnets.errors import UserError, printable
from lightning_subnets.subnet_file import hub
from lightning_subnets.subnet_file.building import builder
from lightning_subnets.subnet_file.container import Container
from lightning_subnets.subnet_file.header import Header

TEMPLATE = Path(__file__).with_suffix(".md")
LONGEST = 200  # characters of a text from the file

# By data module: the hub's identifier of the data set, its name, the split that ``lightning test`` evaluates, and the
# number of classes.
DATA_SETS = {
    "CIFAR10": ("uoft-cs/cifar10", "CIFAR-10", "test", 10),
    "CIFAR100": ("uoft-cs/cifar100", "CIFAR-100", "test", 100),
    "Digits": ("sklearn-digits", "the handwritten digits of scikit-learn", "test", 10),
    "ImageNet": ("ILSVRC/imagenet-1k", "ImageNet", "validation", 1000),
    "TinyImageNet": ("zh-plus/tiny-imagenet", "Tiny ImageNet", "validation", 200),
}
ACCURACIES = {"test_accuracy": "Test accuracy", "test_top5": "Test top-5 accuracy"}
RECIPE = ("trainer.max_epochs", "data.init_args.batch_size", "model.optimizer", "model.schedule")


def check(out: Path, *, force: bool) -> None:
    """Check the packages and the place of a card, before anything is written."""
    try:
        importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UserError('a model card needs huggingface_hub: pip install "lightning-subnets[hub]"') from error
    atomic_file.check_place(out, force=force)


def write(subnet: str | Path, out: Path, *, data: str | None, license: str | None = None, force: bool = False) -> None:
    """Write the card of a file, completely or not at all.

    Args:
        subnet: the ``.subnet`` file.
        out: the card, by convention ``README.md`` beside the file.
        data: the class of ``datamodules`` whose test images gave the file's accuracy, if it is known. The card does not
            name its data set if some of the classes were left out, or the pixels are in another order.
        license: an identifier such as ``apache-2.0``. Only the owner of a file can choose it, so it has no default.
        force: whether to replace an existing card.

    Raises:
        ValueError: see ``check``; if the file cannot be read; or if the card cannot be written.
    """
    check(out, force=force)
    from huggingface_hub import ModelCard

    path = hub.local_path(subnet)
    container = Container(path)
    header = container.header
    data = data if data in DATA_SETS and _is_whole(header, DATA_SETS[data][3]) else None
    name = printable(path.stem)
    card = ModelCard.from_template(
        _card_data(header, name, data, license),
        template_path=str(TEMPLATE),
        title=_code(name),
        summary=_summary(header),
        install=f'pip install "lightning-subnets[hub]"{" timm" if header.network.builder.startswith("timm.") else ""}',
        code=_code_to_load(header, path),
        address=_code(f"hf://USER/REPOSITORY/{path.name}"),
        trainable=", and `masked=True` gives a masked network to continue training"
        if header.method.name in methods.__all__
        else "",
        facts=_facts(header, container.size, data) | {"SHA-256 of the file": f"`{_sha256(path)}`"},
    )
    atomic_file.write(out, str(card), advice="name another place")


def _is_whole(header: Header, classes: int) -> bool:
    """Return whether a file's accuracy is that on a public data set: on all its classes, and with pixels in place."""
    stated, permutation = _at(header.config, "data.init_args.num_classes"), "data.init_args.permutation"
    in_place = "permutation" not in header.preprocessing and _at(header.config, permutation) is None
    return in_place and len(header.classes) in (0, classes) and stated in (None, classes)


def _card_data(header: Header, name: str, data: str | None, license: str | None) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    identifier, data_set, split, _ = DATA_SETS.get(data or "", ("", "", "", 0))
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=identifier,
            dataset_name=data_set,
            dataset_split=split,
            metric_type="accuracy",
            metric_name=ACCURACIES[key],
            metric_value=value,
        )
        for key, value in header.accuracy.items()
        if key in ACCURACIES and identifier
    ]
    method = header.method.name
    return ModelCardData(
        license=license,
        library_name="lightning-subnets",
        pipeline_tag="image-classification",
        tags=["pytorch", "pruning", "subnetwork", *([method.lower()] if method in methods.__all__ else [])],
        model_name=name,
        eval_results=results or None,
    )


def _summary(header: Header) -> str:
    stored = sum(layer.weights != "drawn" for layer in header.layers.values())
    which = "which of the weights are kept"
    if any(layer.flipped for layer in header.layers.values()):
        which += ", and which of these are negated"
    if any(layer.levels for layer in header.layers.values()):
        which += ", and by which small integer each is multiplied"
    if not stored:
        return (
            f"A subnetwork of a network of random weights. The file holds a seed, and says {which}. The masked weights "
            "were never trained: the seed gives each of them."
        )
    return (
        f"A subnetwork: the file says {which}. It also holds the weights of {stored} of the {len(header.layers)} "
        "masked tensors, because the seed does not give them."
    )


def _code_to_load(header: Header, path: Path) -> str:
    """Return lines of Python that run beside the file."""
    try:
        builds = builder(header.network.builder) is not None
    except UserError:  # timm is missing here, or is of another version
        builds = True
    # ASCII in a literal of Python, so that no name can end the line or the block.
    if not builds:
        return f"import lightning_subnets as ls\n\nnetwork = ls.load_subnet({path.name!a}, network=YOUR_NETWORK)"
    lines = ["import lightning_subnets as ls", f"network = ls.load_subnet({path.name!a})"]
    if header.image_shape:
        shape, dtype = ", ".join(map(str, (1, *header.image_shape))), header.network.dtype
        lines = ["import torch", *lines, f"logits = network(torch.zeros({shape}, dtype=torch.{dtype}))"]
    return "\n".join(lines)


def _facts(header: Header, size: int, data: str | None) -> dict[str, str]:
    kept, drawn, images = header.kept, header.weights, header.preprocessing
    on = f", on {DATA_SETS[data][1]}" if data in DATA_SETS else ""
    accuracy = (f"{ACCURACIES.get(key) or _code(key)} {value:.2%}" for key, value in header.accuracy.items())
    shown = ", ".join(map(_code, header.classes[:10])) + (", ..." if len(header.classes) > 10 else "")
    recipe = {key: value for key in RECIPE if (value := _at(header.config, key)) is not None}
    facts = {
        "Accuracy": f"{', '.join(accuracy)}{on}" if header.accuracy else "not stated in the file",
        "Weights kept": f"{kept:,} of {header.total:,} ({kept / header.total:.2%})",
        "Weights": f"distribution {_code(drawn.distribution)}, seed {drawn.seed}" if drawn.distribution else "stored",
        "Network": f"{_code(_call(header.network.builder, header.network.arguments))}, {header.network.dtype}",
        "Method": _code(_call(header.method.name, header.method.arguments)),
        "Size": f"{size:,} bytes, {8 * size / header.total:.2f} bits a weight",
        "Images": ", ".join(f"{_code(name)} {_code(reprlib.repr(value))}" for name, value in images.items()),
        "Classes": f"{len(header.classes)}: {shown}" if header.classes else "",
        "Made by": "`lightning fit -c config.yaml`, with the config that the file holds"
        + "".join(f", {_code(f'{key}={_shown(value)}')}" for key, value in recipe.items())
        if header.config
        else "",
        "Packages": ", ".join(_code(f"{name} {version}") for name, version in header.versions.items()),
        "SHA-256 of the weights": _code(header.digests.weights),
        "SHA-256 of the masks": _code(header.digests.masks),
    }
    return {name: fact for name, fact in facts.items() if fact}


def _call(name: str, arguments: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def _shown(value: Any) -> str:
    """Return an object of a config as a call, and any other value as it is."""
    if isinstance(value, dict) and isinstance(arguments := value.get("init_args") or {}, dict):
        return _call(str(value.get("class_path")), arguments)
    return str(value)


def _at(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config


def _code(value: object) -> str:
    """Return a text on one line as a code span, which only a backtick could end."""
    text = printable(str(value).replace("`", "'"))
    return f"`{text[:LONGEST] or ' '}{'...' if len(text) > LONGEST else ''}`"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

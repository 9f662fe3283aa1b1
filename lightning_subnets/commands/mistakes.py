"""Short errors for the mistakes that a parser finds: where the mistake is, and the nearest name that is known."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from jsonargparse import Namespace, _util
from lightning.pytorch import callbacks, loggers
from torch import optim
from torchvision import models

from lightning_subnets import datamodules, methods, networks
from lightning_subnets.errors import UserError, did_you_mean, printable
from lightning_subnets.run_files.config_files import Entry, entries
from lightning_subnets.run_files.shipped_configs import no_config
from lightning_subnets.training import callbacks as own_callbacks

_KEY = re.compile(r"(?:[Oo]ption '|unrecognized arguments: --)([\w.+]+)(?:' is not accepted$|'$|=|$| )")
_ABSENT = re.compile(r"the following arguments are required: (\w+(?:, \w+)*)")
_NO_FILE = re.compile(r"File does not exist: '(.*)'")
_CHOICE = re.compile(r"Expected a typing\.Literal\[(.*?)\]")
_CLASS = re.compile(
    r"(?:class_path '|import path string: |Not a valid subclass of \w+\. Got value: )([\w.]+)"
    r"(?:':\s*(No module .*|.* has no .*))?"
)
# Options that users look for elsewhere.
_SOUGHT = {
    "density": "model.method.density",
    "lr": "model.optimizer.lr",
    "batch_size": "data.batch_size",
    "seed": "seed_everything",
}
# The classes that are known for a config's keys: how they are spelled, and whether an error lists them all.
_KNOWN: dict[str, list[tuple[str, Iterable[str], bool]]] = {
    "model.method": [(f"{methods.__name__}.", methods.__all__, True)],
    "model.network": [
        (f"{networks.__name__}.", networks.__all__, True),
        (f"{models.__name__}.", models.list_models(module=models), False),
    ],
    "model.optimizer": [("torch.optim.", optim.__all__, False)],
    "data": [(f"{datamodules.__name__}.", datamodules.__all__, True)],
    "trainer.logger": [("", loggers.__all__, True)],
    "trainer.callbacks": [("", [*callbacks.__all__, *own_callbacks.__all__], False)],
}
# The classes that a command line replaces by --KEY=NAME.
REPLACEABLE = ("model.network", "model.method", "model.optimizer", "data")
# The parser gives these the value of seed_everything, whatever a command line or a config says.
_SEEDS = ("model.seed", "data.seed", "data.init_args.seed")


class CommandLine(NamedTuple):
    """A command line, and the directory that it was given in."""

    args: Sequence[str] = ()
    here: Path = Path()

    def place(self, key: str, value: str = "") -> tuple[str, str]:
        """Return the whole key that ends with a key and has a value, and the config and line that it is in."""
        for arg in sorted(self.args, key=lambda arg: arg.partition("=")[0] != f"--{key}"):  # the key itself comes first
            name = arg.partition("=")[0].lstrip("-")
            if arg.startswith("--") and _ends_with(name, key) and value in arg:
                return f"--{name}", ""
        for entry in entries(self.args, self.here):
            if _ends_with(entry.key.removesuffix(".class_path"), key) and value in entry.value:
                return entry.key, self.shown(entry)
        return key, ""

    def check_seeds(self) -> None:
        """Refuse a seed for the model or the data alone, which would be replaced without a word.

        Raises:
            UserError: naming the option, or the config and its line.
        """
        options = [arg.partition("=")[0] for arg in self.args]
        given = [name for name in options if name.removeprefix("--") in _SEEDS]
        for entry in entries(self.args, self.here):
            if entry.key.removeprefix(f"{self.args[0]}.") in _SEEDS:
                given.append(f"{self.shown(entry)}{entry.key}")
        if given:
            raise UserError(f"{given[0]} would be ignored: seed_everything is the seed of weights, scores and data")

    def kept(self, key: str, chosen: Namespace) -> str | None:
        """Return a line that says which arguments a class takes over from another class of the configs.

        The parser keeps those that both take, so ``--model.network=ResNet20`` can have the width of another network.

        Args:
            key: of the class, such as ``model.network``.
            chosen: the class of this run and its arguments.

        Returns:
            The line, or None if the command line does not replace the class or if it keeps nothing but defaults.
        """
        options = {arg.partition("=")[0].removeprefix("--") for arg in self.args}
        whole = any(arg.removeprefix(f"--{key}=").startswith("{") for arg in self.args)  # a class with its arguments
        if whole or not options & {key, f"{key}.class_path"}:
            return None
        found = [each._replace(key=each.key.removeprefix(f"{self.args[0]}.")) for each in entries(self.args, self.here)]
        named = [each for each in found if each.key in (key, f"{key}.class_path") and each.value]
        name = chosen.class_path.rpartition(".")[2]
        if not named or named[0].value.rpartition(".")[2] == name:
            return None
        files = list(dict.fromkeys(each.file for each in found))
        files = files[: files.index(named[0].file) + 1]  # because a class in a file starts from its own defaults
        argument = re.compile(rf"{re.escape(key)}\.(?:init_args\.)?([\w.]+)")
        configured, typed = (
            {match[1] for each in keys if (match := argument.match(each))}
            for keys in ([each.key for each in found if each.file in files], options)
        )
        parameters = inspect.signature(_util.import_object(chosen.class_path)).parameters
        defaults = {each: _listed(parameter.default) for each, parameter in parameters.items()}
        kept = {
            each: value
            for each, value in chosen.get("init_args", {}).items()
            if each in configured - typed and not (each in defaults and defaults[each] == _listed(value))
        }
        if not kept:
            return None
        shown = ", ".join(f"{each}={value}" for each, value in kept.items())
        return printable(f"{name} keeps {shown} of the config; --{key}.{next(iter(kept))}=... changes it")

    def shown(self, entry: Entry) -> str:
        """Return the file and line of an entry, as an error begins."""
        return f"{self.shortened(entry.file)}, line {entry.line}: "

    def shortened(self, path: Path) -> str:
        """Return a path relative to the directory of the command line if it is inside, or else as it is."""
        return str(path.relative_to(self.here) if path.is_relative_to(self.here) else path)


def explained(message: str, known: Iterable[str], line: CommandLine) -> str | None:
    """Return a short error for a parser's message, or None if the message has to do.

    Args:
        message: of the parser.
        known: the keys of the parser.
        line: the command line.
    """
    if message.startswith('Key "class_path" not found'):  # jsonargparse cannot add arguments to an optimizer
        found = [
            each for each in entries(line.args, line.here) if each.key.startswith("model.optimizer") and each.value
        ]
        complete = {entry.file for entry in found if entry.key in ("model.optimizer", "model.optimizer.class_path")}
        for entry in found:
            if entry.file not in complete:
                return (
                    f"{line.shown(entry)}{entry.key} needs the class_path of the optimizer beside it, in the same file"
                )
    if absent := _ABSENT.fullmatch(message):
        return (
            f"a class that the command line or a config names needs {absent[1]}: write it after the class, as in "
            "--model.method=FixedMask --model.method.masks=..., or in a file under the init_args of the class"
        )
    key = re.search(r'key "([\w.]+)"', message)
    if key and key[1] == "config" and (absent := _NO_FILE.search(message)):
        path = Path(absent[1])
        return f"{line.place('config', path.name)[1]}{no_config(line.shortened(path))}"
    if unknown := _KEY.search(message):
        return _unknown_key(unknown[1].rstrip("+"), [*known], line)
    if key and (choices := _CHOICE.findall(message)):
        value = re.findall(r"(?:Got|Given) value: (.*)", message)[-1]
        names = [name.strip("'\" ") for each in dict.fromkeys(choices) for name in each.split(",")]
        whole, place = line.place(key[1], value)
        return f"{place}{whole} = {value!r} is not known.{did_you_mean(value, names)} Known: {', '.join(names)}."
    wrong = _CLASS.findall(message)
    if key and wrong and key[1].rstrip("+") in _KNOWN:
        return _unknown_class(key[1].rstrip("+"), wrong[-1][0], wrong[-1][1], line)
    return None


def _unknown_key(key: str, known: list[str], line: CommandLine) -> str:
    whole, place = line.place(key)
    group, _, last = key.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == group}
    nearest = difflib.get_close_matches(last if siblings else key, [*siblings] or known, n=1)
    elsewhere = ""
    if whole.lstrip("-") == key:
        inner = (name for name in known if not group and name.endswith(f".{key}"))
        elsewhere = _SOUGHT.get(last) or next(inner, "")
    found = f"{place}{whole} is not known."
    if elsewhere:
        found += f" Did you mean {whole.removesuffix(key)}{elsewhere}?"
    elif nearest:
        found += f" Did you mean {whole.removesuffix(key)}{siblings.get(nearest[0], nearest[0])}?"
    elif siblings:
        found += f" Known: {', '.join(sorted(siblings))}."
    if whole.lstrip("-").startswith("model.network."):
        found += f"\nAn argument that the network takes as **kwargs is --model.network.dict_kwargs.{last}=..."
    return found


def _unknown_class(key: str, value: str, reason: str, line: CommandLine) -> str:
    whole, place = line.place(key, value)
    module, _, last = value.rpartition(".")
    # A module that could be imported is here, and a class of the user's own is in no list.
    found = vars(sys.modules[module]) if module in sys.modules else {}
    own = {name: f"{module}.{name}" for name, each in found.items() if callable(each)}
    known = {name: f"{prefix}{name}" for prefix, names, _ in _KNOWN[key] for name in names}
    nearest = [own[name] for name in difflib.get_close_matches(last, own)]
    nearest = nearest or [known[name] for name in difflib.get_close_matches(last, known)]
    hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
    if reason.startswith("No module") and not nearest:
        hint = " Name a class by its module, which is installed or a file of this directory: mynet.MyNet for mynet.py."
    for prefix, names, all_of_them in _KNOWN[key]:
        if all_of_them:
            hint += f"\nKnown{f' in {prefix[:-1]}' if prefix else ''}: {', '.join(names)}."
    return f"{place}{whole} = {value!r} names no class{f' ({reason})' if reason else ''}.{hint}"


def _ends_with(whole: str, key: str) -> bool:
    return f".{whole.rstrip('+')}".endswith(f".{key}")


def _listed(value: object) -> object:
    return [*value] if isinstance(value, tuple) else value  # a config has a list where a default is a tuple

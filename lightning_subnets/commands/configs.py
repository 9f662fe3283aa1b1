"""The command ``subnets configs``."""

from __future__ import annotations

import shlex
from pathlib import Path

from lightning_subnets import atomic_file
from lightning_subnets.errors import UserError, printable
from lightning_subnets.run_files.shipped_configs import command_for, copy_of, description, no_config, shipped_configs


def configs(copy: str | None = None, out: str | None = None, force: bool = False) -> None:
    """List the configs that this package ships, or copy one to edit it.

    A copy works in any directory, because it names the config that it is based on by that config's own name.

    Args:
        copy: the name of the config to copy, for example cifar10/conv4_signed.
        out: the file to write, by default <name>.yaml in this directory.
        force: replace an existing file.
    """
    if copy is None:
        for name, path in shipped_configs().items():
            print(f"{name:<34}  {description(path)}")
        print(
            "\nlightning fit -c NAME makes a run, subnets sweep NAME makes the runs of a figure, and subnets "
            "continual NAME learns many tasks."
        )
        return
    if (source := shipped_configs().get(copy.removesuffix(".yaml"))) is None:
        raise UserError(no_config(copy))
    path = Path(out or source.name)
    atomic_file.check_place(path, force=force)
    atomic_file.write(path, copy_of(source), advice="name another --out")
    print(f"{printable(str(path))}: edit it, then {command_for(source)} {printable(shlex.quote(str(path)))}")

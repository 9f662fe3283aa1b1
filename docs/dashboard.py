"""Create the workspace that shows these runs on Weights & Biases: accuracy, loss, speed, mask, optimisation.

pip install wandb-workspaces
python docs/dashboard.py --entity me --project lightning-subnets   # saves it and prints its address
python docs/dashboard.py --json                                    # prints it, without a server
"""

from __future__ import annotations

import argparse
import json

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws


def workspace(entity: str, project: str) -> ws.Workspace:
    """Return the workspace: one section for each kind of metric, all over the optimizer step."""
    return ws.Workspace(
        entity=entity,
        project=project,
        name="Subnetworks",
        sections=[
            _section(
                "Accuracy",
                _lines("Validation accuracy", "val/accuracy"),
                _lines("Validation accuracy, top 5", "val/top5"),
                _lines("Training accuracy", "train/accuracy", "train/accuracy_step"),
            ),
            _section(
                "Loss",
                _lines("Validation loss", "val/loss"),
                _lines("Training loss", "train/loss", "train/loss_step"),
            ),
            _section(
                "Speed",
                _lines("Images per second", "train/images_per_second", "train/images_per_second_step"),
                _lines("Share of time waiting for data", "train/data_wait", "train/data_wait_step", range_y=(0, 1)),
            ),
            _section(
                "Mask",
                _lines("Density by layer", regex="density/.*"),
                _lines("Share of edges swapped by layer", regex="swapped/.*"),
            ),
            _section(
                "Optimisation",
                _lines("Learning rate", "learning_rate"),
                _lines("Gradient norm", "train/gradient_norm", log_y=True),
            ),
        ],
        settings=ws.WorkspaceSettings(x_axis="Step", max_runs=20),
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric("Group")]),
        auto_generate_panels=False,
    )


def _section(name: str, *panels: wr.LinePlot) -> ws.Section:
    layout = ws.SectionLayoutSettings(columns=3, rows=1)
    return ws.Section(name=name, panels=list(panels), is_open=True, layout_settings=layout)


def _lines(title: str, *metrics: str, regex: str | None = None, **options: object) -> wr.LinePlot:
    return wr.LinePlot(title=title, x="Step", y=list(metrics), metric_regex=regex, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entity", default="", help="a user or a team on Weights & Biases")
    parser.add_argument("--project", default="lightning-subnets")
    parser.add_argument("--json", action="store_true", help="print the workspace instead of saving it")
    options = parser.parse_args()
    view = workspace(options.entity, options.project)
    if options.json:
        print(json.dumps(view._to_model().model_dump(mode="json", by_alias=True), indent=2))
    elif not options.entity:
        parser.error("--entity is missing: name the user or team that the workspace is for, or use --json")
    else:
        view.save()
        print(view.url)


if __name__ == "__main__":
    main()

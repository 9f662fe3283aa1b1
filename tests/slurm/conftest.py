"""The cluster, which is started once, and two fits that several tests use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .cluster import Cluster, Job, UnavailableError
from .site import HELD, Site, wait_until_held


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("slurm")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    try:
        cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    except UnavailableError as error:
        pytest.skip(f"no SLURM: {error}")
    try:
        cluster.start()
        yield cluster
    except UnavailableError as error:
        pytest.skip(f"no SLURM: {error}")
    finally:
        cluster.stop()


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path) -> Site:
    return Site.make(cluster, tmp_path)


@pytest.fixture(scope="session")
def uninterrupted(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Return a fit on two nodes that is not interrupted."""
    job = Site.make(cluster, tmp_path_factory.mktemp("uninterrupted")).fit()
    job.wait_for_end()
    return job


@pytest.fixture(scope="session")
def requeued(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Return the same fit with W&B, requeued by a signal in the middle of an epoch, and resumed."""
    job = Site.make(cluster, tmp_path_factory.mktemp("requeued")).fit(*HELD, "--trainer.logger=WandbLogger")
    wait_until_held(job)
    job.send("USR1")
    job.wait_for_requeue()
    job.wait_for_end()
    return job

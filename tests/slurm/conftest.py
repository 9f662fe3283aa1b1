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
def two_jobs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Job]:
    """Return two fits on two nodes that were submitted from one directory, where they train at the same time.

    The first is not interrupted. The second logs to W&B; SLURM's signal before the time limit stops it in the middle of
    an epoch, so that it requeues itself and resumes.
    """
    site = Site.make(cluster, tmp_path_factory.mktemp("two_jobs"))
    options = ("--nodes=2", "--time=60", "--signal=USR1@60")
    requeued = site.fit(*HELD, "--trainer.logger=WandbLogger", options=options)
    wait_until_held(requeued)
    requeued.bring_time_limit_near()
    uninterrupted = site.fit()
    requeued.wait_for_requeue()
    requeued.update("TimeLimit=60")
    for job in (uninterrupted, requeued):
        job.wait_for_end()
    return uninterrupted, requeued


@pytest.fixture
def uninterrupted(two_jobs: tuple[Job, Job]) -> Job:
    return two_jobs[0]


@pytest.fixture
def requeued(two_jobs: tuple[Job, Job]) -> Job:
    return two_jobs[1]

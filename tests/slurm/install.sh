#!/usr/bin/env bash
# Installs SLURM for its tests, where it is not there and this may; else says that they are skipped, with exit code 1.
set -euo pipefail

missing() {
    for program in munged slurmctld slurmd srun; do
        command -v "$program" > /dev/null || { echo "$program"; return; }
    done
}

if [ "$(id -u)" != 0 ]; then
    echo "The SLURM tests are skipped: their cluster is started by root."
    exit 1
fi
[ -n "$(missing)" ] || exit 0
if ! command -v apt-get > /dev/null; then
    echo "The SLURM tests are skipped: there is no $(missing), and no apt-get to install it by."
    exit 1
fi
echo "Installing slurm-wlm and munge"
# One apt-get at a time, because the tests in a browser may install theirs beside these.
if ! DEBIAN_FRONTEND=noninteractive flock /var/lib/apt sh -c \
    "apt-get update -qq && apt-get install -qq -y --no-install-recommends slurm-wlm munge" > /dev/null; then
    echo "The SLURM tests are skipped: slurm-wlm and munge cannot be installed, the lines above say why."
    exit 1
fi

#!/usr/bin/env bash
# Install FFCV into a Python environment, with the system libraries that it needs.
#
#     data/install_ffcv.sh [python]        the environment's python; the default is .venv/bin/python
#
# FFCV needs OpenCV's imgproc module and TurboJPEG. This script installs them with apt if it may (as root, or with sudo
# without a password); otherwise it prints the command and exits with 1. FFCV's own instructions install all of OpenCV,
# 380 packages. The module that FFCV calls needs 14, so the script gives FFCV a package description of it alone.
set -euo pipefail

python=${1:-.venv/bin/python}
ffcv=ffcv==1.0.2

imports() { "$python" -W ignore -c "import ffcv" 2> /dev/null; }
builds() {
    command -v g++ pkg-config > /dev/null && pkg-config --exists libturbojpeg \
        && "$python" -c "import os, sysconfig; os.stat(sysconfig.get_path('include') + '/Python.h')" 2> /dev/null \
        && { pkg-config --exists opencv4 || [ -e /usr/include/opencv4/opencv2/imgproc.hpp ]; }
}

if imports; then exit 0; fi

if ! builds; then
    packages="g++ pkg-config python3-dev libopencv-imgproc-dev libturbojpeg0-dev"
    if [ "$(id -u)" = 0 ]; then as_root=(env); else as_root=(sudo -n env); fi
    if command -v apt-get > /dev/null && "${as_root[@]}" true 2> /dev/null; then
        echo "Installing the libraries of FFCV: $packages"
        "${as_root[@]}" DEBIAN_FRONTEND=noninteractive sh -c \
            "apt-get update -qq && apt-get install -qq -y --no-install-recommends $packages" > /dev/null
    else
        cat >&2 << END
FFCV is not installed, because its libraries are missing. Without it, --data.loader=folder reads ImageNet from a folder.
Run one of these commands, then data/install_ffcv.sh again:
    sudo apt-get install $packages
    sudo dnf install gcc-c++ pkgconf python3-devel opencv-devel turbojpeg-devel
    conda install -c conda-forge cxx-compiler pkg-config libopencv libjpeg-turbo
or build a container for a cluster: apptainer build subnets.sif data/apptainer.def
END
        exit 1
    fi
fi

if ! pkg-config --exists opencv4; then
    # Describe the two modules that FFCV links under the name of the whole of OpenCV.
    described=$(mktemp -d)
    trap 'rm -rf "$described"' EXIT
    mkdir "$described/opencv2"
    printf '#include <opencv2/core.hpp>\n#include <opencv2/imgproc.hpp>\n' > "$described/opencv2/opencv.hpp"
    cat > "$described/opencv4.pc" << END
Name: opencv4
Description: the part of OpenCV that FFCV uses
Version: 4
Libs: -lopencv_imgproc -lopencv_core
Cflags: -I$described -I/usr/include/opencv4
END
    export PKG_CONFIG_PATH=$described${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
fi

echo "Installing $ffcv"
constraints=$(cd "$(dirname "$0")/.." && pwd)/constraints.txt
pip=("$python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints")
"${pip[@]}" numba opencv-python-headless setuptools tqdm
# Skip the dependencies that FFCV declares: OpenCV with a window system, and packages that only its benchmarks import.
"${pip[@]}" --no-deps --no-cache-dir "$ffcv"
"$python" -W ignore -c "import ffcv"  # shows the reason if it cannot be imported

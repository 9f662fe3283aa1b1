#!/usr/bin/env bash
# Installs FFCV into a Python environment, with the system libraries it is built on.
#
#     data/install_ffcv.sh [python]        the environment's python; by default .venv/bin/python
#
# FFCV uses OpenCV's imgproc and TurboJPEG. Where this is root, or may be by sudo without a password, and there is
# apt, they are installed by it; elsewhere the line to run is printed, and the exit code is 1. OpenCV as a whole, as
# FFCV's own instructions have it, is 380 packages; the part that FFCV calls is 14 with what they need, so FFCV is
# shown a package description of that part alone.
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
        echo "Installing what FFCV is built on: $packages"
        "${as_root[@]}" DEBIAN_FRONTEND=noninteractive sh -c \
            "apt-get update -qq && apt-get install -qq -y --no-install-recommends $packages" > /dev/null
    else
        cat >&2 << END
FFCV is not installed: what it is built on is missing. Until then ImageNet is read from its folder:
--data.loader=folder. One of these, then data/install_ffcv.sh again:
    sudo apt-get install $packages
    sudo dnf install gcc-c++ pkgconf python3-devel opencv-devel turbojpeg-devel
    conda install -c conda-forge cxx-compiler pkg-config libopencv libjpeg-turbo
or, for a cluster, a container: apptainer build subnets.sif data/apptainer.def
END
        exit 1
    fi
fi

if ! pkg-config --exists opencv4; then
    # The two modules that FFCV links, under the names by which it asks for all of OpenCV.
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
# Without what it declares: OpenCV for Python with a window system, and packages that only its benchmarks import.
"${pip[@]}" --no-deps --no-cache-dir "$ffcv"
imports

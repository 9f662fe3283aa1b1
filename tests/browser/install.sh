#!/usr/bin/env bash
# Installs what the tests in a browser need, if it is absent; otherwise says that they are skipped, with exit code 1.
# Usage: install.sh PYTHON FOLDER, where FOLDER gets node_modules.
set -euo pipefail
python=$1 folder=$2

skip() {
    echo "The tests in a browser are skipped: $1"
    exit 1
}
if ! command -v chromium > /dev/null || ! command -v npm > /dev/null; then
    { [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; } || skip "they need chromium and npm."
    echo "Installing chromium and npm"
    # npm is a package of Debian, and a part of the nodejs that others publish, which conflicts with it.
    # One apt-get at a time, because the SLURM tests may install theirs beside these.
    DEBIAN_FRONTEND=noninteractive flock /var/lib/apt sh -c "apt-get update -qq &&
        apt-get install -qq -y --no-install-recommends chromium &&
        { apt-get install -qq -y --no-install-recommends npm 2> /dev/null ||
            apt-get install -qq -y --no-install-recommends nodejs; }" > /dev/null ||
        skip "chromium and npm cannot be installed, the lines above say why."
fi
"$python" -c "import playwright" 2> /dev/null || "$python" -m pip install --quiet "playwright>=1.50" ||
    skip "pip cannot install playwright, the lines above say why."
{ [ -d "$folder/node_modules/onnxruntime-web" ] && [ -d "$folder/node_modules/axe-core" ]; } ||
    npm install --silent --no-fund --no-audit --prefix "$folder" onnxruntime-web@1.30.0 axe-core@4.14.1 > /dev/null ||
    skip "npm cannot install onnxruntime-web and axe-core, the lines above say why."

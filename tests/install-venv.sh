#!/bin/sh
# Makes the virtual environment given as the first argument from requirements.txt, with this checkout in it as onprem.llm.
set -eu
venv=$1

if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "This needs Python 3.11 or newer; $(python3 --version) is installed." >&2
    exit 1
fi
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    echo "venv: installing python3-venv" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
fi
echo "venv: installing the pinned requirements into $venv" >&2
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
# Compiling the thousands of modules in the ansible package costs more than it ever returns.
"$venv/bin/pip" install -qq --disable-pip-version-check --no-compile --requirement requirements.txt
mkdir -p "$venv/collections/ansible_collections/onprem"
ln -sfn "$(pwd)" "$venv/collections/ansible_collections/onprem/llm"
touch "$venv/.ready"

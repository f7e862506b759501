#!/usr/bin/env bash
# Does the lock resolve on every supported Python? Asks pip's resolver; installs nothing.
# Environment markers are evaluated for the running interpreter, so a pin that depends on the Python version is given
# to pip as it reads on the version asked for, and so is what a pin requires of Python, which uv has checked already.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
for version in 3.11 3.12 3.13; do
  pins=$(mktemp)
  "$python" - "$version" > "$pins" <<'PY'
import sys
from packaging.requirements import Requirement
environment = {"python_version": sys.argv[1], "python_full_version": sys.argv[1] + ".0"}
for line in open("constraints.txt"):
    line = line.strip()
    if line and not line.startswith("#"):
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate(environment):
            pin.marker = None
            print(pin)
PY
  "$python" -m pip install --quiet --dry-run --ignore-installed --ignore-requires-python --only-binary=:all: \
    --python-version "$version" --target "$(mktemp -d)" --implementation cp --abi "cp${version/./}" --abi abi3 --abi none \
    -r "$pins" && echo "Python $version: $(wc -l < "$pins") pins resolve"
done

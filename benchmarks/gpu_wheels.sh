#!/usr/bin/env bash
# Fetch what benchmarks/gpu.py needs on a machine without network that has torch, transformers,
# accelerate, peft, numba, pyarrow, pandas, psutil, rich, click and matplotlib for Python 3.12:
#
#     bash benchmarks/gpu_wheels.sh WHEELS
#
# There, from the root of this tree:
#
#     python3 -m pip install --no-index --no-deps --target SITE WHEELS/*.whl
#     PYTHONPATH=SITE python3 benchmarks/gpu.py --output DIR
set -euo pipefail

platforms=()
for glibc in 2_28 2_27 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  "${platforms[@]}" --platform manylinux2014_x86_64 --dest "${1:?name a folder for the wheels}" \
  'trl>=1.16,<1.17' 'datasets>=4.7' 'dill>=0.4.1,<0.4.2' 'multiprocess<0.70.20' \
  'sqlalchemy>=2.0.40' 'alembic>=1.16' mako

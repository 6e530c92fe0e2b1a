#!/usr/bin/env bash
# Make a folder of the wheels that a bare GPU machine lacks: one with PyTorch, transformers, peft, Lightning, tiktoken,
# pandas, rich and filelock, and no network. The GPU suite and the benchmark need none of them; the commands do.
#   experiments/gpu_wheels.sh [FOLDER] [PYTHON_VERSION]     default: wheels 3.12, for x86-64 Linux
# Run them there with the repository's root as working folder:
#   python3 -m pip install --no-index --no-deps --target /tmp/site FOLDER/*.whl && export PYTHONPATH=/tmp/site
set -euo pipefail
folder=${1:-wheels}
version=${2:-3.12}
python=${PYTHON:-python3}
# The same bounds as in setup.cfg, and what soundfile and jiwer need.
names=("hydra-core>=1.3.2,<1.4" "omegaconf>=2.3,<2.4" "jiwer>=4.0,<5" "rapidfuzz>=3.9" "soundfile>=0.13" cffi pycparser)
platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
    platforms+=(--platform "${tag}_x86_64")
done
rm -rf "$folder"
mkdir -p "$folder"
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version "$version" --implementation cp \
    "${platforms[@]}" --dest "$folder" "${names[@]}"
# OmegaConf's parser has no wheel; it is pure Python, so one made here fits everywhere.
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder" "antlr4-python3-runtime==4.9.3"
limit=$((64 * 1024 * 1024))
size=$(du --bytes --summarize "$folder" | cut -f1)
if ((size > limit)); then
    echo "$folder holds $size bytes; at most $limit can be carried" >&2
    exit 1
fi
ls -l "$folder"

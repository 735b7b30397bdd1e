#!/usr/bin/env bash
# Turns a device that is lent for minutes into numbers: the tests of tests/gpu, then bench/runtime/device_numbers.py, a
# part at a time, each with a limit of its own. Under 8 minutes in all. What ended is in $OUT whatever happens later.
#
#   tests/gpu/lease.sh              on the device; $OUT is the folder of the results
#   tests/gpu/lease.sh --dry-run    the same lines on this machine's CPU, with small sizes
#   tests/gpu/lease.sh --wheels     on a machine with a package index: fetch what the device lacks into .whl
#
# Afterwards, here: python bench/runtime/device_numbers.py --write FOLDER/numbers.json
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# Packages of pydantic, which the device's image lacks, which the product's types are made of; versions as requirements/cpu.txt has.
wheels() { grep -oE '^(pydantic|pydantic-core|annotated-types|typing-inspection)==[^ ]+' requirements/cpu.txt; }
python=python3 sizes=() limit=420 slower=1
case ${1-} in
--wheels)
  mapfile -t wanted < <(wheels)
  exec python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d .whl "${wanted[@]}"
  ;;
--dry-run)
  python=.venv/bin/python sizes=(--small) limit=3600 slower=10 # this machine may be busy
  export CUDA_VISIBLE_DEVICES=
  ;;
"") ;;
*)
  printf 'lease: unknown option %s; there are --dry-run and --wheels\n' "$1" >&2
  exit 2
  ;;
esac

out=${OUT:-$(mktemp -d)}
export PYTHONPATH=crds:runtime:bench/runtime PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
if ((${#sizes[@]} == 0)) && compgen -G '.whl/*.whl' >/dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target /tmp/lease-site .whl/*.whl || exit 1
  PYTHONPATH+=:/tmp/lease-site
fi

failed=() began=$SECONDS
attempt() { # attempt SECONDS NAME COMMAND...: nothing starts once the lease's time is over
  local seconds=$(($1 * slower)) name=$2 left=$((limit - (SECONDS - began)))
  shift 2
  ((left > 5)) || { failed+=("$name: no time left") && return; }
  ((seconds < left)) || seconds=$left
  timeout --kill-after 5 "$seconds" "$@" >"$out/$name.log" 2>&1
  local code=$?
  tail -n 1 "$out/$name.log"
  ((code == 0)) || failed+=("$name: exit code $code")
}

nvidia-smi >"$out/nvidia-smi.log" 2>&1 || ((${#sizes[@]})) || failed+=("nvidia-smi")
for part in product transfers attention head optimizer training; do
  attempt 60 "$part" "$python" bench/runtime/device_numbers.py "${sizes[@]}" --part "$part" --output "$out/numbers.json"
done
attempt 150 tests "$python" -m pytest -q -m gpu -p no:cacheprovider tests/gpu
cat "$out"/*.log >"$out/all.log" && rm -f "$out"/{product,transfers,attention,head,optimizer,training,tests,nvidia-smi}.log
printf 'lease: %s s; results in %s\n' $((SECONDS - began)) "$out"
((${#failed[@]} == 0)) || { printf 'lease: failed: %s\n' "${failed[@]}" && exit 1; }

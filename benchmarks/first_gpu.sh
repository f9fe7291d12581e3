#!/usr/bin/env bash
# What a GPU must show first, in at most nine minutes: OUT=results benchmarks/first_gpu.sh
#
# It needs torch, pytest with pytest-xdist, and the packages that pyproject.toml lists; it installs nothing into the
# Python that it runs. Where no package index can be reached, bring the wheels that lack there, fetched elsewhere by
#
#   pip download -c constraints.txt --no-deps -d wheels jsonargparse docstring-parser typeshed-client filelock
#
# and name their folder: WHEELS=wheels OUT=results benchmarks/first_gpu.sh. They are unpacked into a temporary folder.
# Folders are named from the root of the repository.
#
# Each step has a time limit, and one that fails stops no other. OUT then holds log.txt (all output), steps.tsv (exit
# status and seconds of each step; 124 is the time limit), checks.jsonl (a line for each check) and gpu.json (the
# benchmark, section by section).
# DEVICE=cpu rehearses it all with stand-ins and small sizes. TOTAL is the limit in seconds, SLACK multiplies those of
# the steps, PYTHON is the interpreter.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 2
: "${OUT:?names the folder for results}" "${DEVICE:=cuda}" "${PYTHON:=python3}" "${TOTAL:=535}" "${SLACK:=1}" "${WHEELS:=}"
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
SITE=$(mktemp -d)
trap 'rm -rf "$SITE"' EXIT
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD:$SITE${PYTHONPATH:+:$PYTHONPATH}"
: >"$OUT/log.txt"
printf 'step\tstatus\tseconds\n' >"$OUT/steps.tsv"
failures=0
end=$((TOTAL - 130)) # the seconds that are kept for the benchmark

# step NAME SECONDS COMMAND...: run a command within its limit and what is left of the whole.
step() {
    local name=$1 limit=$(($2 * SLACK)) start=$SECONDS left=$((end - SECONDS)) status
    shift 2
    if ((left < limit)); then limit=$left; fi
    if ((limit <= 0)); then
        status=skipped
    else
        echo "=== $name (at $SECONDS s, at most $limit s)" | tee -a "$OUT/log.txt"
        timeout --kill-after=3 "$limit" "$@" 2>&1 | tee -a "$OUT/log.txt"
        status=${PIPESTATUS[0]}
    fi
    if [ "$status" != 0 ]; then failures=$((failures + 1)); fi
    printf '%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - start))" >>"$OUT/steps.tsv"
}

check() { # check NAME SECONDS
    step "$1" "$2" "$PYTHON" -m benchmarks.gpu.first "$1" --device "$DEVICE" --json "$OUT/checks.jsonl"
}

bench() { # bench NAME SECONDS [SECTION...]: without sections all that gpu.json lacks
    local name=$1 limit=$2
    shift 2
    step "$name" "$limit" "$PYTHON" -m benchmarks.gpu --device "$DEVICE" --json "$OUT/gpu.json" --limit "$SLACK" \
        ${1:+--only "$@"}
}

memcheck() { # memcheck SECONDS
    if command -v compute-sanitizer >/dev/null; then
        step memcheck "$1" compute-sanitizer --tool memcheck --error-exitcode 9 --print-limit 20 \
            "$PYTHON" -m benchmarks.gpu.first five-steps --device "$DEVICE" --json "$OUT/checks.jsonl"
    else
        step memcheck "$1" echo "there is no compute-sanitizer here: memory accesses are not checked"
    fi
}

if [ -n "$WHEELS" ]; then
    step wheels 30 "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$SITE" "$WHEELS"/*.whl
fi
step nvidia-smi 10 nvidia-smi
check machine 20
bench rates 35 rates
check widths 25
check rotations 40
check after-failures 25
step tests 100 "$PYTHON" -m pytest -q -m gpu -n "$([ "$DEVICE" = cpu ] && echo 0 || echo 8)" -p no:cacheprovider \
    --continue-on-collection-errors -W ignore::DeprecationWarning -W ignore::FutureWarning \
    tests/balance tests/contracts tests/data tests/train
check balancers 90
check other-steps 60
check forms 20
bench profiles 50 profiles-small
bench epochs 90 epochs
memcheck 60
end=$TOTAL
bench benchmark 300

echo "=== $failures steps failed, in $SECONDS s" | tee -a "$OUT/log.txt"
cat "$OUT/steps.tsv"
grep -s '"ok": false' "$OUT/checks.jsonl" | cut -c1-600
[ "$failures" = 0 ]

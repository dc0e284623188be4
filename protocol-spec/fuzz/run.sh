#!/usr/bin/env bash
# Runs each fuzz target for SECONDS (default 10) over the checked-in corpus.
#
#   protocol-spec/fuzz/run.sh [SECONDS [TARGET...]]
#
# Needs a nightly compiler and a C++ compiler, not cargo-fuzz: the flags below
# are those that it passes. New inputs stay in target/corpus; a crash is written
# to target/artifacts and ends the run with an error.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-10}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for file in fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi
triple=$(rustc +nightly -vV | sed -n 's/^host: //p')
flags=(
    --cfg fuzzing
    -Zsanitizer=address
    -Ccodegen-units=1
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
)
# --target keeps the flags away from build scripts.
RUSTFLAGS="${flags[*]}" cargo +nightly build --release --target "$triple"
for target in "${targets[@]}"; do
    mkdir -p "target/corpus/$target" "target/artifacts/$target"
    echo "fuzzing $target for $seconds s"
    # 256 MiB would be passed at once by a length that is believed.
    "target/$triple/release/$target" "target/corpus/$target" "corpus/$target" \
        -max_total_time="$seconds" -rss_limit_mb=1024 -malloc_limit_mb=64 -timeout=10 \
        -max_len=16384 -artifact_prefix="target/artifacts/$target/" -print_final_stats=1 \
        2>"target/$target.log" || { tail -40 "target/$target.log"; exit 1; }
    grep -E 'number_of_executed_units|peak_rss_mb|new_units_added' "target/$target.log"
done

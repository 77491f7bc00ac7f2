#!/bin/bash
# Real Arm wheels without a board: does the runtime compute on a Raspberry Pi's processor what it computes on x86?
#
# Makes Debian roots for both architectures, installs this checkout's wheel with its engine from the package index in
# each, runs `verify`, `classify --json` and raw_outputs.py natively and under qemu-user, processor by processor, and lets
# `python -m benchmarks.arm` compare. It proves that the same instructions give the same numbers, not how fast a board is.
# How, and what came of it: docs/arm.md.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)

usage() {
    cat <<'USAGE'
usage: sudo tests/arm/run_arm.sh [options]

  --suites LIST      Debian releases; default: "bookworm trixie" (Python 3.11 and 3.13)
  --cpus LIST        processors as qemu calls them; default: "cortex-a72 cortex-a76 max bare"; each has a file
                     tests/arm/cpuinfo-NAME, but for the controls, which may fail: "max", qemu's default, and "bare",
                     a Cortex-A72 whose kernel says nothing about it
  --engines LIST     extras of the wheel; default: "litert"; "tflite-runtime" is possible on bookworm
  --per-class N      rendered pictures of each class, and as many masks, beside samples/; default: 2
  --own MODEL=DIR    pictures of your own for a model, as well; may be given for each model
  --work DIR         roots (0.6 GB a release), pictures and outputs; kept, so that a second run skips what is there;
                     a folder of its own: new, empty, or of an earlier run; default: build/arm
  --out FILE         where the comparison goes; default: WORK/arm.json
  --jobs N           processors at a time; default: the CPUs here
  --python PYTHON    with this project's dependencies, to render and compare; default: .venv/bin/python

examples:
  sudo tests/arm/run_arm.sh --suites bookworm --cpus cortex-a72 --per-class 1     # the quickest that says something
  sudo tests/arm/run_arm.sh --out benchmarks/results/arm.json                     # both releases, Pi 4, Pi 5, controls
  sudo tests/arm/run_arm.sh --suites bookworm --engines "litert tflite-runtime"

Needs root on x86-64 (for mounts and chroot), mmdebstrap, qemu-user-static and binfmt-support, a Debian mirror
($DEBIAN_MIRROR) and a package index (this machine's pip.conf and certificates are lent to the roots). Exit status 1
when a processor other than the controls does not pass.
USAGE
}

stop() { echo "error: $1" >&2; exit "${2:-1}"; }

suites="bookworm trixie" cpus="cortex-a72 cortex-a76 max bare" engines="litert" per_class=2 own=()
work=$repository/build/arm out="" python=$repository/.venv/bin/python mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
jobs=$(nproc)
while [ $# -gt 0 ]; do
    case $1 in -h | --help) usage; exit 0 ;; esac
    case $1 in --suites | --cpus | --engines | --per-class | --own | --work | --out | --jobs | --python) ;;
        *) stop "no such option: $1 (see: $0 --help)" 2 ;; esac
    [ $# -ge 2 ] || stop "$1 needs a value (see: $0 --help)" 2
    case $1 in
        --suites) suites=$2 ;;
        --cpus) cpus=$2 ;;
        --engines) engines=$2 ;;
        --per-class) per_class=$2 ;;
        --own) own+=("$2") ;;
        --work) work=$2 ;;
        --out) out=$2 ;;
        --jobs) jobs=$2 ;;
        --python) python=$2 ;;
    esac
    shift 2
done

controls="max bare" mark=.leukoscope-arm
models=$(cd "$repository/edge_runtime/bundles" && echo *)
[ "$(uname -m)" = x86_64 ] || stop "the reference is x86-64, and this is $(uname -m)" 2
[[ $per_class =~ ^[0-9]+$ ]] || stop "--per-class: got $per_class, expected a whole number" 2
[[ $jobs =~ ^[1-9][0-9]*$ ]] || stop "--jobs: got $jobs, expected a whole number from 1" 2
for cpu in $cpus; do
    [[ " $controls " == *" $cpu "* || -e $here/cpuinfo-$cpu ]] || stop "no $here/cpuinfo-$cpu: write it as that board's kernel does" 2
done
for pair in ${own[@]+"${own[@]}"}; do
    [[ " $models " == *" ${pair%%=*} "* && -d ${pair#*=} ]] || stop "--own: got $pair, expected MODEL=DIR, a model of: $models" 2
done
[ -z "$out" ] || [ -d "$(dirname "$out")" ] || stop "--out: $(dirname "$out") is no folder" 2
# The work is done in other folders than the one where this was called.
out=${out:+$(realpath -sm "$out")} python=$(realpath -sm "$python")
if [ -d "$work" ] && [ -n "$(ls -A "$work")" ] && [ ! -e "$work/$mark" ]; then
    stop "--work: $work holds something else, and pictures, outputs, source and wheel in it would be replaced" 2
fi
[ "$(id -u)" = 0 ] || stop "needs root, for mounts and roots of its own (sudo $0)" 2
[ -x "$python" ] || stop "$python is not there (make setup, or --python)" 2
for tool in mmdebstrap qemu-aarch64-static unshare git tar pkill; do
    command -v "$tool" >/dev/null || stop "$tool is not installed (apt-get install mmdebstrap qemu-user-static binfmt-support git procps)" 2
done
unshare --mount true 2>/dev/null || stop "this root may not mount: a container without that right" 2
[ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ] ||
    stop "the kernel does not know arm64 programs (mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc; update-binfmts --enable qemu-aarch64)" 2
mkdir -p "$work"
touch "$work/$mark"
work=$(cd "$work" && pwd)
out=${out:-$work/arm.json}
started=$SECONDS
say() { echo "== $* ($((SECONDS - started)) s)"; }

# Run a command in a root, with /work, and with the processor's files where the kernel has them: LiteRT chooses its
# kernels by them, and without them takes its built-in ones, which round otherwise.
inside() { # ROOT SIDE COMMAND...
    local root=$1 cpu=$2 cpuinfo=$here/cpuinfo-$2 cores=0-3
    shift 2
    [ -e "$cpuinfo" ] || cpuinfo=
    local settings=(PATH=/usr/local/bin:/usr/bin:/bin HOME=/root LANG=C.UTF-8 PIP_DISABLE_PIP_VERSION_CHECK=1)
    case $cpu in
        native) cores= ;;
        bare) cores= settings+=(QEMU_CPU=cortex-a72) ;;
        *) settings+=(QEMU_CPU="$cpu") ;;
    esac
    local name
    for name in PIP_INDEX_URL http_proxy https_proxy no_proxy; do
        [ -z "${!name:-}" ] || settings+=("$name=${!name}")
    done
    # shellcheck disable=SC2016 - the inner shell expands these
    unshare --mount --pid --fork --kill-child bash -euc '
        root=$1 work=$2 cpuinfo=$3 cores=$4
        shift 4
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount --bind "$work" "$root/work"
        [ -z "$cpuinfo" ] || mount --bind "$cpuinfo" "$root/proc/cpuinfo"
        if [ -n "$cores" ]; then
            mount -t tmpfs tmpfs "$root/sys"
            mkdir -p "$root/sys/devices/system/cpu"
            for file in possible present; do echo "$cores" >"$root/sys/devices/system/cpu/$file"; done
        fi
        # not exec: the first process of a namespace outlives the signal of its own crash, and would hang
        chroot "$root" "$@" || exit $?' inside "$root" "$work" "$cpuinfo" "$cores" env -i "${settings[@]}" "$@"
}

make_root() { # SUITE ARCHITECTURE
    local root=$work/roots/$1-$2 file
    if [ ! -d "$root" ]; then
        say "a clean $1 for $2 from $mirror"
        rm -rf --one-file-system "$root.part"
        mkdir -p "$work/roots"
        mmdebstrap --quiet --mode=root --architectures="$2" --variant=minbase --include=python3-venv,ca-certificates \
            "$1" "$root.part" "$mirror"
        mkdir "$root.part/work"
        mv "$root.part" "$root"
    fi
    for file in /etc/pip.conf /etc/ssl/certs/ca-certificates.crt /etc/resolv.conf; do
        if [ -e "$file" ]; then cp --dereference "$file" "$root$file"; fi
    done
}

# An environment for each engine. Arm gets the versions that x86 got: the processor is to be the only difference.
install() { # SUITE ARCHITECTURE ENGINE
    local root=$work/roots/$1-$2 venv=/opt/$3 cpu=native
    local pins=/work/roots/$1-$3.txt file stamp
    file=/work/wheel/$(basename "$wheel")
    stamp=$(sha256sum "$wheel" | cut -d' ' -f1)
    [ "$(cat "$root$venv/.wheel" 2>/dev/null)" != "$stamp" ] || return 0
    say "the wheel with $3 into $1, $2"
    [ "$2" = amd64 ] || cpu=bare
    [ -x "$root$venv/bin/pip" ] || inside "$root" $cpu python3 -m venv "$venv"
    if [ "$2" = amd64 ]; then : >"$work/roots/$1-$3.txt"; fi
    # What it needs, where that is not there yet, and then the wheel itself anew: its version may be the same.
    inside "$root" $cpu "$venv/bin/pip" install --quiet --only-binary :all: --constraint "$pins" "$file[$3]"
    inside "$root" $cpu "$venv/bin/pip" install --quiet --force-reinstall --no-deps "$file"
    if [ "$2" = amd64 ]; then inside "$root" $cpu "$venv/bin/pip" freeze --exclude leukoscope >"$work/roots/$1-$3.txt"; fi
    echo "$stamp" >"$root$venv/.wheel"
}

run() { # SUITE ENGINE SIDE
    local root=$work/roots/$1-arm64 folder=outputs/$1/$2/$3 model commands status
    [ "$3" != native ] || root=$work/roots/$1-amd64
    say "$1, $2, $3: verify, classify, raw outputs"
    commands="cd /; export PATH=/opt/$2/bin:\$PATH; python -m edge_runtime verify --json --threads 1 >/work/$folder/verify.jsonl"
    for model in $models; do
        commands+="; python -m edge_runtime classify --json --threads 1 --model $model /work/pictures/$model >/work/$folder/classify-$model.jsonl"
        commands+="; python /work/raw_outputs.py --model $model --out /work/$folder/raw-$model.npz /work/pictures/$model"
    done
    # A control may fail in any way, and crash, too: what is missing then is seen by who compares.
    inside "$root" "$3" bash -c "$commands" || { status=$?; say "$1, $2, $3: exit status $status"; }
}

# A side's own processes end with unshare, which is told to take them along.
stop_sides() {
    local job
    for job in $(jobs -p); do pkill -KILL -P "$job" || true; done
}
trap stop_sides EXIT

# tflite-runtime's last release has no wheel for a Python after 3.11.
fits() { # SUITE ENGINE
    [ "$2" != tflite-runtime ] || [ "$1" = bookworm ]
}

# With their masks, which are no smears: they are refused, and must be everywhere, for the same reasons.
say "pictures"
rm -rf "$work/pictures" "$work/outputs"
for model in $models; do
    mkdir -p "$work/pictures/$model"
    cp -r "$repository/samples/$model" "$work/pictures/$model/samples"
    [ "$per_class" != 0 ] || continue
    (cd "$repository" && "$python" -m train render --task "$model" --per-class "$per_class" --out "$work/pictures/$model/rendered" >/dev/null)
done
for pair in ${own[@]+"${own[@]}"}; do cp -rL "${pair#*=}" "$work/pictures/${pair%%=*}/own"; done
cp "$here/raw_outputs.py" "$work/raw_outputs.py"
mkdir "$work/outputs"
qemu-aarch64-static --version >"$work/outputs/qemu.txt"

# Built from a copy, for setuptools leaves a build folder that would outlive deleted modules.
first=${suites%% *}
make_root "$first" amd64
say "this checkout's wheel"
rm -rf "$work/source" "$work/wheel"
mkdir -p "$work/source" "$work/wheel"
(cd "$repository" && git ls-files -z --cached --others --exclude-standard -- edge_runtime pyproject.toml README.md LICENSE | tar --null --files-from - -c) |
    tar -x -C "$work/source"
[ -x "$work/roots/$first-amd64/opt/build/bin/pip" ] || inside "$work/roots/$first-amd64" native python3 -m venv /opt/build
inside "$work/roots/$first-amd64" native env SOURCE_DATE_EPOCH=315532800 /opt/build/bin/pip wheel --quiet --no-deps \
    --wheel-dir /work/wheel /work/source
wheel=$(echo "$work"/wheel/*.whl)

for suite in $suites; do
    for architecture in amd64 arm64; do
        make_root "$suite" "$architecture"
        for engine in $engines; do
            if fits "$suite" "$engine"; then install "$suite" "$architecture" "$engine"; fi
        done
    done
    for engine in $engines; do
        fits "$suite" "$engine" || continue
        for side in native $cpus; do
            while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || true; done
            mkdir -p "$work/outputs/$suite/$engine/$side" # here: a side that never starts is one without outputs
            run "$suite" "$engine" "$side" &
        done
    done
done
wait

say "compared"
(cd "$repository" && "$python" -m benchmarks.arm "$work/outputs" --controls "$controls" --out "$out")
say "done"

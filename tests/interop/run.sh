#!/usr/bin/env bash
# Whether SoundStorm, Voicebox and audiolm-pytorch, as they come from PyPI, work with this project in place of release
# 0.4.8. Makes an environment of its own (6 GB in the temporary folder, removed at the end), installs the project into it
# from a copy, runs the tests beside this file, and ends with one line for each check. Nothing but PyPI is asked.
# INTEROP_VENV: a folder to keep the environment in and use again. INTEROP_PYTHON: the Python that makes it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
exec </dev/null

venv=${INTEROP_VENV:-$work/venv}
next_soundstorm=$venv/soundstorm-0.6.1 # folders that take the place of what the environment has
release=$venv/release-0.4.8
unset PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 WANDB_MODE=disabled

step() { printf '== %s (%s s)\n' "$1" "$SECONDS"; }

install() { # pip's words are shown only when it fails
    if ! pip install --quiet --progress-bar off "$@" >"$work/pip.log" 2>&1; then
        tail -n 40 "$work/pip.log"
        echo "pip install $* failed" >&2
        exit 1
    fi
}

step "environment in $venv"
[ -x "$venv/bin/python" ] || "${INTEROP_PYTHON:-python3}" -m venv "$venv"
. "$venv/bin/activate"
install --upgrade pip
install -r "$here/requirements.txt"
install --no-deps -r "$here/requirements-no-deps.txt"
install --no-deps --upgrade --target "$next_soundstorm" soundstorm-pytorch==0.6.1
install --no-deps --upgrade --target "$release" spear-tts-pytorch==0.4.8

step "this project"
mkdir "$work/source"
cp -R "$root"/{setup.py,pyproject.toml,README.md,LICENSE,MANIFEST.in,spear_tts_pytorch} "$work/source"
install --force-reinstall --no-deps "$work/source"
install "$work/source"

status=0
run_tests() { # LOG, folder that comes before the environment's packages, test files
    step "tests: $1"
    (
        cd "$work" # not the project's root, whose folder would come before the installed package
        export PYTHONPATH=$2 INTEROP_RELEASE_0_4_8=$release
        python -m pytest -q --tb=short --disable-warnings -p no:cacheprovider -c "$root/pyproject.toml" \
            -o addopts=-ra -o pythonpath= --rootdir "$root" "${@:3}"
    ) >"$work/$1" 2>&1 || { status=1; sed '/^=* with soundstorm/,$d' "$work/$1"; }
}
run_tests soundstorm-0.4.10 "" "$here"
run_tests soundstorm-0.6.1 "$next_soundstorm" "$here/test_soundstorm.py" "$here/test_checkpoints.py"

step "summary"
for log in "$work"/soundstorm-*; do
    sed -n '/^=* with soundstorm/,$p' "$log"
done
count() { cat "$work"/soundstorm-* | grep -c "^$1" || true; }
echo "interop: $(count 'ok ') passed, $(count 'FAILED  ') failed"
exit "$status"

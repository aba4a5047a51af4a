#!/usr/bin/env bash
# Install everything that Forecache needs into this folder: uv, the locked environment, Java if missing, the Spark jars.
# Runs again at no cost: when nothing changed since the last time, nothing is contacted and nothing is written.
# Usage: bash scripts/setup.sh [--force] [--s3] [--demo]
#        (--s3: also what Spark needs for a lake on S3; --demo: without the tools of development, and where the machine has
#        no GPU with torch for the processor, unless all is there)
#        bash scripts/setup.sh --image-packages EXTRAS TORCH (of deploy/Containerfile: without the tools of development)
#        bash scripts/setup.sh --image-code (then, with the code)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

UV_VERSION=0.13.9
STAMP=.tools/setup.stamp
DEMO_STAMP=.tools/demo.stamp
DEMO_EXTRAS=reader,local,spark,train,dagster,s3
UV=.tools/uv/bin/uv

say() { printf '%s\n' "$*"; }
step() { printf '[setup] %s\n' "$*"; }
fail() { printf '[setup] %s\n' "$@" >&2; exit 1; }

as_root() { # The prefix that runs a command as root, or failure where there is none.
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else return 1; fi
}

apt_install() { # Install the first package of the list that the archive has.
    command -v apt-get >/dev/null || return 1
    local package
    for package in "$@"; do
        if as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$package" \
            >.tools/apt.log 2>&1; then return 0; fi
    done
    as_root apt-get update -q >.tools/apt.log 2>&1 || return 1
    for package in "$@"; do
        if as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$package" \
            >>.tools/apt.log 2>&1; then return 0; fi
    done
    return 1
}

find_pythons() { # Each Python 3.10 to 3.13, by its own word rather than its name.
    local name
    for name in python3 python3.13 python3.12 python3.11 python3.10 /usr/bin/python3; do
        command -v "$name" >/dev/null && "$name" -c '
import os, sys
if (3, 10) <= sys.version_info[:2] <= (3, 13):
    print(os.path.realpath(sys.executable))' 2>/dev/null || true
    done
}

loop_ns() { # What a loop takes at best, ns.
    "$1" -c 'import timeit
print(int(min(timeit.repeat("for i in range(5000): t += len(str(i))", "t = 0", number=1, repeat=50)) * 1e9))'
}

find_python() { # The first, or one that is faster by a tenth: some are built without optimisation.
    local python ns found= best=
    for python in $(find_pythons | awk '!seen[$0]++'); do
        ns="$(loop_ns "$python")"
        if [ -z "$found" ] || [ "$((ns * 10))" -lt "$((best * 9))" ]; then found="$python" best="$ns"; fi
    done
    if [ -z "$found" ]; then return 1; fi
    printf '%s\n' "$found"
}

java_major() { "$1" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1; }

java_suits() { # Spark 4.1 runs on Java 17 and 21.
    [ -x "$1" ] || return 1
    case "$(java_major "$1")" in 17 | 21) return 0 ;; *) return 1 ;; esac
}

find_java() { # What `forecache` itself will take: the setting, JAVA_HOME, .tools/java, PATH.
    local home="${FORECACHE_JAVA_HOME:-${JAVA_HOME:-}}"
    if [ -n "$home" ]; then
        java_suits "$home/bin/java" && { printf '%s' "$home/bin/java"; return 0; }
        return 2
    fi
    if java_suits .tools/java/bin/java; then printf '%s' .tools/java/bin/java; return 0; fi
    local java
    java="$(command -v java || true)"
    if [ -n "$java" ] && java_suits "$java"; then printf '%s' "$java"; return 0; fi
    return 1
}

link_installed_java() { # A suitable Java that is installed but is not the one on PATH.
    local java
    for java in /usr/lib/jvm/*/bin/java; do
        if java_suits "$java"; then
            ln -sfn "$(dirname "$(dirname "$java")")" .tools/java
            return 0
        fi
    done
    return 1
}

install_uv() {
    rm -rf .tools/uv
    if ! "$PYTHON" -m venv .tools/uv >.tools/uv.log 2>&1; then # Debian keeps ensurepip in python3-venv.
        rm -rf .tools/uv
        if "$PYTHON" -m pip --version >/dev/null 2>&1; then
            "$PYTHON" -m pip install -q --target .tools/uv "uv==$UV_VERSION" >.tools/uv.log 2>&1 ||
                fail "pip could not install uv $UV_VERSION: $(tail -n 1 .tools/uv.log)" "Check the network, then run again."
            return
        fi
        step "python3-venv with apt"
        apt_install "python$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv" python3-venv ||
            fail "Neither venv nor pip comes with $PYTHON." "Install one: apt-get install -y python3-venv"
        "$PYTHON" -m venv .tools/uv >.tools/uv.log 2>&1 || fail "venv still fails: $(tail -n 1 .tools/uv.log)"
    fi
    .tools/uv/bin/python -m pip install -q "uv==$UV_VERSION" >.tools/uv.log 2>&1 ||
        fail "pip could not install uv $UV_VERSION: $(tail -n 1 .tools/uv.log)" "Check the network, then run again."
}

install_image_packages() { # EXTRAS (a,b) TORCH: torch for the processor alone (cpu), for GPUs too (cuda), that of PyPI, which
    # needs CUDA's libraries, but without triton, which compiles for GPUs (pypi), or none.
    local extras=() extra torch
    for extra in ${1//,/ }; do extras+=(--extra "$extra"); done
    export_lock() { "$UV" export -q --frozen --no-dev --no-emit-project "${extras[@]}" "$@"; }
    "$UV" venv -q --clear --python "$PYTHON" .venv
    local pip=("$UV" pip install -q --python .venv/bin/python --compile-bytecode)
    if [ "$2" = cuda ]; then
        export_lock | "${pip[@]}" --require-hashes -r - || return 1
    elif [ "$2" = pypi ]; then
        export_lock --prune triton | "${pip[@]}" --no-deps --require-hashes -r - || return 1
    else
        export_lock --prune torch | "${pip[@]}" --require-hashes -r - || return 1
        torch="$(export_lock --no-hashes | grep '^torch==' || true)" # a version for each Python
        if [ "$2" = cpu ] && [ -n "$torch" ]; then
            "${pip[@]}" --index https://download.pytorch.org/whl/cpu -r - <<<"$torch" || return 1
        fi
    fi
}

install_demo() { # The environment of `make demo`. An index that cannot be reached costs disk, and not the demo.
    local torch=cuda
    if [ "$(uname -s)" = Linux ] && ! [ -e /proc/driver/nvidia/version ]; then
        if "$PYTHON" -c 'import urllib.request as r; r.urlopen("https://download.pytorch.org/whl/cpu/", timeout=10)' 2>/dev/null
        then torch=cpu
        else
            torch=pypi
            step "download.pytorch.org cannot be reached: torch is that of PyPI, whose wheel needs CUDA's libraries (4 GB)"
        fi
    fi
    step "packages of the extras $DEMO_EXTRAS (torch: $torch)"
    install_image_packages "$DEMO_EXTRAS" "$torch" && "$UV" pip install -q --python .venv/bin/python --no-deps -e .
}

install_image_code() {
    JAVA="$(find_java)" || fail "The image has no Java." "Install openjdk-17-jre-headless in it."
    trust_machine
    "$UV" pip install -q --python .venv/bin/python --no-deps -e . || fail "uv could not install the code; its message is above."
    compile_sources
    archive_classes
    empty_database
}

trust_machine() { # Its certificates, not uv's own: a company's proxy is trusted there.
    if [ -f /etc/ssl/certs/ca-certificates.crt ]; then export UV_SYSTEM_CERTS=1; fi
    export UV_PYTHON_DOWNLOADS=never
}

compile_sources() { # PYTHONDONTWRITEBYTECODE would otherwise make every start two to three times slower.
    .venv/bin/python -m compileall -qq forecache dagster_project assets jobs resources || true
}

archive_key() { # All that the archive was made from: the JVM does without one whose Java or jars are others.
    { printf '%s\n' "$PWD"; "$JAVA" -version 2>&1; cat scripts/archive_classes.py forecache/kit/spark/configuration.py
        stat -c '%n %s %Y' .tools/jars/*.jar .venv/lib/python3*/site-packages/pyspark/jars/*.jar; } |
        sha256sum | cut -d ' ' -f 1
}

archive_classes() { # Only a sooner start depends on it, so set-up goes on where it fails.
    local key
    key="$(archive_key)"
    if [ -f .tools/jars/classes.jsa ] && [ "$(cat .tools/classes.key 2>/dev/null)" = "$key" ]; then return 0; fi
    step "an archive of the classes of a Spark session into .tools/jars"
    if timeout --foreground -k 30 600 .venv/bin/python scripts/archive_classes.py .tools/jars \
        >.tools/classes.log 2>&1; then
        printf '%s\n' "$key" >.tools/classes.key
    else
        step "it could not be made, and Spark will start more slowly: $(tail -n 1 .tools/classes.log)"
    fi
}

empty_database() { # Where it cannot be made, the first training makes its own.
    step "an empty MLflow database into .tools"
    .venv/bin/python -m forecache.models.tracking.client >.tools/database.log 2>&1 ||
        step "an empty MLflow database could not be made: $(tail -n 1 .tools/database.log)"
}

fingerprint() {
    { printf '%s\n' "$PWD" "$UV_VERSION"; cat uv.lock scripts/resolve_jars.py scripts/archive_classes.py forecache/models/tracking/client.py; sed '/^\[tool\.[^h]/,$d' pyproject.toml; } |
        sha256sum | cut -d ' ' -f 1
}

is_current() {
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ] && .venv/bin/python -c '' 2>/dev/null &&
        [ -f .tools/jars/delta-storage-4.4.0.jar ] && [ -f .tools/jars/kafka/commons-pool2-2.12.1.jar ] &&
        find_java >/dev/null
}

resolve_jars() { # FOLDER [--s3 | --streams]
    .venv/bin/python scripts/resolve_jars.py "$@" --java "$JAVA" ${IVY_SETTINGS:+--ivy-settings "$IVY_SETTINGS"}
}

resolve_s3_jars() { # What is there already costs a look at its content, and no network.
    if [ "$s3" = no ]; then return 0; fi
    JAVA="$(find_java)"
    if [ ! -f .tools/jars/s3/hadoop-aws-3.4.2.jar ]; then step "the Spark jars for S3 into .tools/jars/s3"; fi
    resolve_jars .tools/jars/s3 --s3
}

force=no s3=no demo=no image=()
while [ "$#" -gt 0 ]; do
    case "$1" in
        --force) force=yes ;;
        --s3) s3=yes ;;
        --demo) demo=yes ;;
        --image-packages)
            force=yes s3=yes image=("${2:?EXTRAS}" "${3:?TORCH}")
            shift 2
            ;;
        --image-code)
            install_image_code
            exit 0
            ;;
        *) fail "setup.sh does not know $1." "Usage: bash scripts/setup.sh [--force] [--s3] [--demo]" ;;
    esac
    shift
done

mkdir -p .tools
# An environment with the tools of development keeps them.
if [ -f "$STAMP" ]; then demo=no; fi
stamp="$STAMP"
if [ "$demo" = yes ]; then stamp="$DEMO_STAMP"; fi
if [ "$force" = no ] && is_current; then
    compile_sources
    resolve_s3_jars
    exit 0
fi

started=$SECONDS
step "first time, or the lock changed: this takes a few minutes and up to $([ "$demo" = yes ] && echo 7 || echo 8) GB of disk"

PYTHON="$(find_python)" || {
    step "Python with apt"
    apt_install python3 >/dev/null && PYTHON="$(find_python)" ||
        fail "Forecache needs Python 3.10 to 3.13 and none was found." "Install it: apt-get install -y python3 python3-venv"
}
step "Python $("$PYTHON" -c 'import platform; print(platform.python_version())') at $PYTHON"

if [ "$("$UV" --version 2>/dev/null | cut -d ' ' -f 2)" != "$UV_VERSION" ]; then
    step "uv $UV_VERSION into .tools/uv"
    install_uv
fi

step "the locked environment into .venv"
trust_machine
if [ "${#image[@]}" -gt 0 ]; then install_image_packages "${image[@]}"
elif [ "$demo" = yes ]; then install_demo
else UV_COMPILE_BYTECODE=1 "$UV" sync --locked --python "$PYTHON"; fi ||
    fail "uv could not install the locked environment; its message is above." "Check network and disk, then run again."
if [ "${#image[@]}" = 0 ]; then
    step "the bytecode of the sources"
    compile_sources
fi

java_state=0
JAVA="$(find_java)" || java_state=$?
if [ "$java_state" = 2 ]; then
    fail "FORECACHE_JAVA_HOME or JAVA_HOME is ${FORECACHE_JAVA_HOME:-$JAVA_HOME}, which holds no Java 17 or 21." \
        "Unset it, or let it name one."
elif [ "$java_state" = 1 ]; then
    if ! link_installed_java; then
        step "Java 17 with apt"
        apt_install openjdk-17-jre-headless openjdk-21-jre-headless ||
            fail "Spark needs Java 17 or 21, and it could not be installed here." \
                "Install it: apt-get install -y openjdk-17-jre-headless"
        find_java >/dev/null || link_installed_java || true
    fi
    JAVA="$(find_java)" || fail "Java was installed but is not found." "Set FORECACHE_JAVA_HOME to its folder."
fi
step "Java $(java_major "$JAVA") at $JAVA"

step "the Spark jars into .tools/jars"
resolve_jars .tools/jars
step "the jars of streams into .tools/jars/kafka"
resolve_jars .tools/jars/kafka --streams
resolve_s3_jars
if [ "${#image[@]}" -gt 0 ]; then exit 0; fi

archive_classes
empty_database

fingerprint >"$stamp"
step "ready after $((SECONDS - started)) s"

#!/usr/bin/env bash
# A Kafka broker of one process (KRaft: broker and controller in one) for tests, benchmarks and the demo of streams. It
# listens on this machine alone (KAFKA_ADDRESS names another of its addresses), without passwords; its topics are kept in
# FOLDER. No broker for production.
# Usage: bash scripts/kafka.sh start FOLDER PORT    start it unless it runs there, and wait until it answers
#        bash scripts/kafka.sh run FOLDER PORT      run it in the foreground
#        bash scripts/kafka.sh stop FOLDER          stop it, and wait until it has ended
#        bash scripts/kafka.sh kill FOLDER          end it by SIGKILL, as a crash does, and wait until it has ended
#        bash scripts/kafka.sh java                 print the Java that it runs with
# KAFKA_JVM_OPTIONS replaces the JVM's option for a broker that lives a few minutes; empty: one that runs for long.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
JARS="$ROOT/.tools/kafka"
START_S=120
STOP_S=30
ADDRESS=${KAFKA_ADDRESS:-127.0.0.1}
CLUSTER=Rm9yZWNhY2hlLUthZmthMQ # of all brokers that this script starts: 16 bytes in base64

fail() { printf '[kafka] %s\n' "$@" >&2; exit 1; }

find_java() { # As set-up does: the setting, JAVA_HOME, .tools/java, PATH.
    local home="${FORECACHE_JAVA_HOME:-${JAVA_HOME:-}}" java
    if [ -n "$home" ]; then java="$home/bin/java"
    elif [ -x "$ROOT/.tools/java/bin/java" ]; then java="$ROOT/.tools/java/bin/java"
    else java="$(command -v java || true)"; fi
    [ -x "$java" ] || fail "Kafka needs Java 17 or newer and none was found: run \`make setup\`."
    printf '%s' "$java"
}

write_properties() { # The controller listens 10,000 ports above the broker, or below where there are none above.
    local controller=$((port > 55535 ? port - 10000 : port + 10000))
    cat >"$folder/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://$ADDRESS:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://$ADDRESS:$port
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$folder/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# A killed broker that starts again is taken back once its former session has ended.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# Less memory than the defaults, which are for large clusters.
log.cleaner.dedupe.buffer.size=16777216
num.network.threads=2
num.io.threads=4
background.threads=2
PROPERTIES
}

prepare() { # Configure it, and give the folder an identity the first time. Sets COMMAND, which starts Java.
    compgen -G "$JARS/kafka_*.jar" >/dev/null || fail "Kafka is not installed: bash scripts/install_test_services.sh kafka"
    mkdir -p "$folder"
    write_properties
    # The heap of a broker for a few thousand messages a second.
    # shellcheck disable=SC2206  # several options
    local options=(${KAFKA_JVM_OPTIONS--XX:TieredStopAtLevel=1})
    COMMAND=("$(find_java)" -Xms128m -Xmx400m -XX:+UseSerialGC "${options[@]}" -cp "$ROOT/scripts/kafka:$JARS/*")
    if [ ! -f "$folder/data/meta.properties" ]; then
        "${COMMAND[@]}" kafka.tools.StorageTool format --cluster-id "$CLUSTER" --config "$folder/server.properties" \
            >"$folder/format.log" 2>&1 || fail "$folder could not be formatted:" "$(head -n 5 "$folder/format.log")"
    fi
}

process() { # Its process id, where it runs. The number in the file may be another process's by now.
    local pid
    pid="$(cat "$folder/pid" 2>/dev/null)" || return 1
    { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF "kafka.Kafka $folder/server.properties" || return 1
    printf '%s' "$pid"
}

answers() { (exec 3<>"/dev/tcp/$ADDRESS/$port") 2>/dev/null; }

run() {
    prepare
    printf '%s' "$$" >"$folder/pid" # exec keeps the number
    exec "${COMMAND[@]}" kafka.Kafka "$folder/server.properties"
}

start() {
    if process >/dev/null; then return 0; fi
    rm -f "$folder/pid"
    mkdir -p "$folder"
    setsid bash "${BASH_SOURCE[0]}" run "$folder" "$port" </dev/null >"$folder/server.log" 2>&1 &
    local started=$SECONDS
    until process >/dev/null && answers; do
        if ! kill -0 $! 2>/dev/null || [ $((SECONDS - started)) -ge "$START_S" ]; then
            kill -9 -- "-$!" 2>/dev/null || true # one that is only slow would run on, unknown to whoever started it
            fail "The broker did not start within $START_S s. $folder/server.log ends:" "$(tail -n 15 "$folder/server.log")"
        fi
        sleep 0.1
    done
}

stop() { # [SIGNAL]: SIGTERM unless another is named.
    local pid started=$SECONDS
    pid="$(process)" || return 0
    kill -s "${1:-TERM}" "$pid"
    while process >/dev/null; do
        if [ $((SECONDS - started)) -ge "$STOP_S" ]; then kill -9 "$pid"; fi
        sleep 0.1
    done
}

action="${1:-}"
case "$action:$#" in
    java:1) find_java ;;
    start:3 | run:3) mkdir -p "$2"; folder="$(cd "$2" && pwd)" port="$3"; "$action" ;;
    stop:2) folder="$(realpath -m "$2")"; stop ;;
    kill:2) folder="$(realpath -m "$2")"; process >/dev/null || fail "No broker runs in $folder."; stop KILL ;;
    *) fail "Usage: bash scripts/kafka.sh start|run FOLDER PORT, or stop|kill FOLDER, or java" ;;
esac

#!/usr/bin/env bash
# Run the example of examples/cards: history lands, a model is trained and released, and a day of card payments is streamed
# through Kafka at 1,000 times its speed. ARGS="--customers 5000" takes all customers of the example; a fifth by default.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CUSTOMERS=1000 SPEED=1000
while [ $# -gt 0 ]; do
    case "$1" in
        --customers) CUSTOMERS="$2"; shift 2 ;;
        --speed) SPEED="$2"; shift 2 ;;
        *) echo "demo_stream.sh takes --customers NUMBER and --speed NUMBER, not $1" >&2; exit 2 ;;
    esac
done
STARTED=$SECONDS
# The days are moved so that yesterday is streamed and the night before it is the newest: 129 days of history, or those
# since CARDS_START.
DAY="$(date -u -d yesterday +%F)" NIGHT="$(date -u -d "2 days ago" +%F)"
CARDS_START="${CARDS_START:-$(date -u -d "130 days ago" +%F)}"
export CARDS_START
export PYTHONPATH="$PWD/examples/cards${PYTHONPATH:+:$PYTHONPATH}"
export FORECACHE_PROJECT=cards FORECACHE_HOME="${FORECACHE_HOME:-$PWD/.forecache-cards}"
PORT="${FORECACHE_KAFKA_DEMO_PORT:-19092}"
export FORECACHE_KAFKA_BROKERS="127.0.0.1:$PORT"
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

# Each run begins anew: a topic with the day in it already would be read, too.
if [ "$FORECACHE_HOME" = "$PWD/.forecache-cards" ]; then
    bash scripts/kafka.sh stop "$FORECACHE_HOME/kafka"
    rm -rf "$FORECACHE_HOME"
elif [ -n "$(ls -A "$FORECACHE_HOME" 2>/dev/null)" ]; then
    echo "demo_stream.sh begins anew, and $FORECACHE_HOME is not empty: empty it, or unset FORECACHE_HOME" >&2
    exit 2
fi
mkdir -p "$FORECACHE_HOME"

say "1. A Kafka broker, and the history: a file a day until $NIGHT"
trap 'bash scripts/kafka.sh stop "$FORECACHE_HOME/kafka"' EXIT
bash scripts/kafka.sh start "$FORECACHE_HOME/kafka" "$PORT"
.venv/bin/python -m cards.demo.land --customers "$CUSTOMERS" --last "$NIGHT"

say "2. The night of $NIGHT: features, training, gate, release, publish"
.venv/bin/forecache run card_fraud --job full --date "$NIGHT"

say "3. $DAY, streamed: forecache stream cards, forecache serve"
.venv/bin/python -m cards.demo.day --customers "$CUSTOMERS" --day "$DAY" --speed "$SPEED"

say "Done in $((SECONDS - STARTED)) s. Everything is under $FORECACHE_HOME."

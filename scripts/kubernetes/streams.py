"""A stream of the trial, by the chart's Deployment: its pod is lost while payments are sent, and no row is."""

import contextlib
import json
import sys
import time

from runs import describe_place, seconds
from trial import ADDRESS, SCRIPTS, Trial, TrialError

STREAM, STORE = "payments", "user_pace"
RESOURCES = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
STREAMED = ("--set-json", f"streams={json.dumps([{'name': STREAM, 'resources': RESOURCES}])}")
"""What the chart needs from the stream on: a reader that starts is ready only where its live view is followed."""
FIRST_ROWS = 500


def follow_stream(trial: Trial) -> None:
    """Run a stream, end its pod while payments are sent, and compare the table and the readers with what was sent."""
    ask_events(trial, "topic")
    began = time.monotonic()
    trial.install(*STREAMED)
    trial.write(f"helm upgrade with a stream and tailers beside the readers: all ready after {seconds(began)}")
    stop = trial.folder / "stop-payments"
    with trial.run_meanwhile(stop, "events.py", "send", str(stop), env=describe_broker(trial)) as sent:
        ask_events(trial, "wait", str(FIRST_ROWS))
        [pod] = trial.list_pods("stream")
        end_pod(trial, pod)
        began = time.monotonic()
        before = int(ask_events(trial, "wait", "0"))
        trial.write(f"the stream's pod was killed after {before} rows of payments that are sent all the time")
        ask_events(trial, "wait", str(before + 1))
        if pod in trial.list_pods("stream"):
            raise TrialError(f"{pod} is there still.")
        trial.write(f"another pod, whose disk was empty, goes on: {seconds(began)} after the kill")
    count = str(sent["sent"])
    ask_events(trial, "wait", count)
    newest = json.loads(ask_events(trial, "compare", count))
    trial.write(f"the stream's table has each of {count} payments once, and equals what they come to")
    compare_readers(trial, newest)


def describe_broker(trial: Trial) -> dict[str, str]:
    """Settings of a machine outside the cluster, with the lake of the pods and their broker."""
    return describe_place(trial, "prod") | {"FORECACHE_KAFKA_BROKERS": f"{ADDRESS}:9092"}


def ask_events(trial: Trial, *arguments: str) -> str:
    return trial.node(sys.executable, str(SCRIPTS / "events.py"), *arguments, env=describe_broker(trial))


def end_pod(trial: Trial, pod: str) -> None:
    """End a stream's pod as the loss of its node does: no line of its process runs any more."""
    process = trial.node("pgrep", "--full", f"forecache stream {STREAM}")
    trial.node("kill", "-STOP", process)  # else it would commit its last rows when the pod is deleted
    trial.kubectl("delete", pod, "--force", "--grace-period", "0")
    with contextlib.suppress(TrialError):  # the kubelet was sooner
        trial.node("kill", "-KILL", process)


def compare_readers(trial: Trial, newest: dict[str, float]) -> None:
    """Wait until every reader answers all users from the stream's newest rows."""
    began = time.monotonic()
    trial.wait_until(240, "the end of the old readers", lambda: len(trial.list_readers()) == 2)
    wanted = {key: ("live", {"pace": count}) for key, count in newest.items()}
    for pod in trial.list_readers():
        trial.wait_until(120, f"the newest rows in {pod}", lambda pod=pod: ask_keys(trial, pod, list(wanted)) == wanted)
    trial.write(f"each reader answers the {len(wanted)} users from the newest of these rows: {seconds(began)}")


def ask_keys(trial: Trial, pod: str, keys: list[str]) -> dict[str, tuple[str, dict[str, float]]]:
    """Source and value of keys, as one reader answers them."""
    address = trial.kubectl("get", pod, "--output", "jsonpath={.status.podIP}")
    header = f"Authorization: Bearer {trial.tokens['shop']}"
    request = ["curl", "--silent", "--max-time", "10", "--header", header, "--json", json.dumps({"keys": keys})]
    answer = json.loads(trial.node(*request, f"http://{address}:8080/v1/{STORE}"))
    rows = answer.get("results", [])
    return {row["key"]: (row.get("source", answer["source"]), row.get("value", {})) for row in rows}

"""Answer the metrics APIs of a one-node cluster: metrics.k8s.io as metrics-server does, custom.metrics.k8s.io as
prometheus-adapter does for the one metric that readers are scaled by.

Processor and memory of pods come from the kubelet. Requests in flight come from the readers: every 2 s each pod with
the annotation prometheus.io/scrape is asked for its metrics, and the rate of
`forecache_reader_in_flight_seconds_total` over the last 20 s is the mean number of requests in flight (Little's law),
the rule of deploy/prometheus-adapter.yaml.

Usage: python3 metrics.py NODE_ADDRESS
"""

import json
import pathlib
import ssl
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections import defaultdict, deque
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEYS = pathlib.Path("/run/node/keys")
TOKEN = pathlib.Path("/run/node/metrics-token")  # a reader's token with the scope +metrics, if readers want one
SERIES, METRIC = "forecache_reader_in_flight_seconds_total", "forecache_reader_requests_in_flight"
WINDOW_S, INTERVAL_S = 20, 2
CUSTOM, RESOURCE = "custom.metrics.k8s.io/v1beta2", "metrics.k8s.io/v1beta1"


def make_client(name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(KEYS / "ca.crt"))
    context.load_cert_chain(KEYS / f"{name}.crt", KEYS / f"{name}.key")
    return context


def get_json(url: str, context: ssl.SSLContext) -> dict:
    with urllib.request.urlopen(url, context=context, timeout=10) as answer:
        return json.load(answer)


def get_pods(namespace: str | None = None, selector: str = "") -> list[dict]:
    query = f"?labelSelector={urllib.parse.quote(selector)}" if selector else ""
    place = f"namespaces/{namespace}/pods" if namespace else "pods"
    pods = get_json(f"https://127.0.0.1:6443/api/v1/{place}{query}", CLIENT)["items"]
    return [pod for pod in pods if pod["status"].get("phase") == "Running"]


class Samples:
    """The last samples of the series of each pod, as (time in s, value)."""

    def __init__(self) -> None:
        self.of_pod: dict[str, deque[tuple[float, float]]] = defaultdict(deque)

    def scrape(self, pod: dict) -> None:
        annotations = pod["metadata"].get("annotations", {})
        place = f"{annotations.get('prometheus.io/port', '8080')}{annotations.get('prometheus.io/path', '/metrics')}"
        request = urllib.request.Request(f"http://{pod['status']['podIP']}:{place}")
        if TOKEN.exists():
            request.add_header("Authorization", f"Bearer {TOKEN.read_text().strip()}")
        with urllib.request.urlopen(request, timeout=2) as answer:
            lines = answer.read().decode().splitlines()
        values = [float(line.split()[-1]) for line in lines if line.startswith((SERIES + " ", SERIES + "{"))]
        if values:
            samples = self.of_pod[pod["metadata"]["uid"]]
            samples.append((time.monotonic(), sum(values)))
            while samples[-1][0] - samples[0][0] > WINDOW_S:
                samples.popleft()

    def scrape_forever(self) -> None:
        while True:
            try:
                pods = [
                    p for p in get_pods() if p["metadata"].get("annotations", {}).get("prometheus.io/scrape") == "true"
                ]
            except OSError as error:
                print("pods:", error, flush=True)
                pods = []
            for pod in pods:
                try:
                    self.scrape(pod)
                except (OSError, ValueError, KeyError) as error:
                    print(pod["metadata"]["name"], error, flush=True)
            time.sleep(INTERVAL_S)

    def get_rate(self, uid: str) -> float | None:
        samples = list(self.of_pod.get(uid, ()))
        if len(samples) < 2 or time.monotonic() - samples[-1][0] > WINDOW_S:
            return None
        (begin, first), (end, last) = samples[0], samples[-1]
        return max(0.0, (last - first) / (end - begin))


def describe_custom_metric(namespace: str, selector: str) -> dict:
    items = []
    for pod in get_pods(namespace, selector):
        rate = SAMPLES.get_rate(pod["metadata"]["uid"])
        if rate is not None:
            described = {"kind": "Pod", "apiVersion": "/v1", "namespace": namespace, "name": pod["metadata"]["name"]}
            items.append(
                {
                    "describedObject": described,
                    "metric": {"name": METRIC},
                    "timestamp": now(),
                    "value": f"{rate * 1000:.0f}m",
                }
            )
    return {"kind": "MetricValueList", "apiVersion": CUSTOM, "metadata": {}, "items": items}


def describe_pod_usage(namespace: str | None, selector: str) -> dict:
    usage = {pod["podRef"]["uid"]: pod for pod in get_node_summary()["pods"]}
    items = []
    for pod in get_pods(namespace, selector):
        meta = pod["metadata"]
        if meta["uid"] in usage:
            containers = [{"name": c["name"], "usage": get_usage(c)} for c in usage[meta["uid"]].get("containers", [])]
            meta = {key: meta.get(key, {}) for key in ("name", "namespace", "labels")}
            items.append({"metadata": meta, "timestamp": now(), "window": "10s", "containers": containers})
    return {"kind": "PodMetricsList", "apiVersion": RESOURCE, "metadata": {}, "items": items}


def describe_node_usage() -> dict:
    node = get_node_summary()["node"]
    item = {"metadata": {"name": node["nodeName"]}, "timestamp": now(), "window": "10s", "usage": get_usage(node)}
    return {"kind": "NodeMetricsList", "apiVersion": RESOURCE, "metadata": {}, "items": [item]}


def get_node_summary() -> dict:
    return get_json(f"https://{ADDRESS}:10250/stats/summary", CLIENT)


def get_usage(measured: dict) -> dict:
    cpu, memory = measured.get("cpu", {}), measured.get("memory", {})
    return {"cpu": f"{cpu.get('usageNanoCores', 0)}n", "memory": f"{memory.get('workingSetBytes', 0) // 1024}Ki"}


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def list_resources(version: str, resources: list[tuple[str, bool, str]]) -> dict:
    described = [
        {"name": name, "singularName": "", "namespaced": is_namespaced, "kind": kind, "verbs": ["get", "list"]}
        for name, is_namespaced, kind in resources
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": described}


def answer_path(path: str, selector: str) -> dict:
    """Answer a path of either API; KeyError for what neither has."""
    match path.strip("/").split("/"):
        case ["apis", "custom.metrics.k8s.io", _]:
            return list_resources(CUSTOM, [(f"pods/{METRIC}", True, "MetricValueList")])
        case ["apis", "custom.metrics.k8s.io", _, "namespaces", namespace, "pods", _, metric] if metric == METRIC:
            return describe_custom_metric(namespace, selector)
        case ["apis", "metrics.k8s.io", _]:
            return list_resources(RESOURCE, [("pods", True, "PodMetrics"), ("nodes", False, "NodeMetrics")])
        case ["apis", "metrics.k8s.io", _, "namespaces", namespace, "pods"]:
            return describe_pod_usage(namespace, selector)
        case ["apis", "metrics.k8s.io", _, "pods"]:
            return describe_pod_usage(None, selector)
        case ["apis", "metrics.k8s.io", _, "nodes"]:
            return describe_node_usage()
    raise KeyError(path)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urllib.parse.urlparse(self.path)
        selector = urllib.parse.parse_qs(url.query).get("labelSelector", [""])[0]
        try:
            code, body = 200, answer_path(url.path, selector)
        except (KeyError, OSError) as error:
            code, body = (
                404,
                {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "message": repr(error)},
            )
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Write nothing: the controller asks every five seconds."""


if __name__ == "__main__":
    ADDRESS = sys.argv[1]
    CLIENT, SAMPLES = make_client("metrics"), Samples()
    threading.Thread(target=SAMPLES.scrape_forever, daemon=True).start()
    server = ThreadingHTTPServer((ADDRESS, 8443), Handler)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(KEYS / "metrics.crt", KEYS / "metrics.key")
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.serve_forever()

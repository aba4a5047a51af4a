"""Everything that wakes periodically: in which process, how often, for what. `forecache settings --wakes` lists it.

Each period is stated here and nowhere else; `tests/unit/test_wakes.py` finds periodic code that is not in the list.
"""

from dataclasses import dataclass

_SERVE, _WORKER, _MODEL = "forecache serve", "worker of the reader", "model process"
_COMMITTER, _TAILER, _STREAM = "forecache log commit", "forecache stream tail", "forecache stream"
_TRAIN, _SCORE, _RUN, _DAEMON = "forecache train", "scoring on Spark", "forecache run", "Dagster's daemon"


@dataclass(frozen=True)
class Wake:
    name: str
    process: str  # in which it wakes
    purpose: str  # as the subject of a sentence
    every_s: float = 0.0  # from one call to the next; 0: see `rule`
    rule: str = ""  # how the period follows from a setting or a declaration

    @property
    def period(self) -> str:
        return self.rule or f"{self.every_s:g} s"


SIDECARS = Wake("sidecars", _SERVE, "Starting the sidecars (tailer, committer), again if one has ended", 1.0)
STATUS_VIEWS = Wake("status-views", _SERVE, "Looking if somebody views the status page", 1.0)
STATUS_PART = Wake("status", _SERVE, "Reading runs and alerts for a status page that is viewed", 60.0)
DRAIN = Wake("drain", _SERVE, "Looking if requests still come, after the signal to stop", 0.1)
READER_WORKERS = Wake("reader-workers", _SERVE, "Looking if a worker is to be replaced, also whenever one ends", 60.0)

STORE_POLL = Wake("swap", _WORKER, "Looking for new versions, releases, rollouts and live rows", 0.25)
REMOTE_VERSIONS = Wake(
    "remote-versions", _WORKER, "Looking what the remote serves, as long as this machine lacks a version of a pipeline",
    1.0,
)  # fmt: skip
SILENT_CONNECTIONS = Wake("silent-connections", _WORKER, "Closing silent connections", 0.25)
SCRUB = Wake(
    "scrub", _WORKER, "Reading all that is served again, to find damaged bytes", rule="FORECACHE_READER_SCRUB_S"
)
LOG_SPOOL = Wake(
    "request-log", _WORKER, "Writing logged answers to the spool, while there are some",
    rule="FORECACHE_REQUEST_LOG_DELAY_S / 4",
)  # fmt: skip
HUNG_MODELS = Wake("hung-models", _WORKER, "Looking for model processes that hang", 0.05)
MODEL_WATCH = Wake("model", _WORKER, "Reading memory and state of each model process", 0.2)
TEMPLATE_WATCH = Wake("template", _WORKER, "Looking at the template process of each release", 0.2)
TEMPLATE_REAP = Wake("template-reap", _MODEL, "Collecting model processes that have ended, in the template", 1.0)

LOG_COMMIT = Wake(
    "log-commit", _COMMITTER, "Committing spooled answers", rule="FORECACHE_REQUEST_LOG_DELAY_S / 2"
)  # fmt: skip
LOG_MAINTENANCE = Wake("log-maintenance", _COMMITTER, "Merging small files of the request logs", 60.0)
LOG_LOCK = Wake("log-lock", _COMMITTER, "Looking if another committer of the same spool has ended", 1.0)

TAILER_POLL = Wake(
    "tailer", _TAILER, "Looking for new commits of the streams",
    rule="FORECACHE_STREAM_POLL_S; 0.05 s for a local lake, 1 s for a remote one",
)  # fmt: skip
TAILER_LAYERS = Wake("tailer-layers", _TAILER, "Looking for new live layers", 1.0)
TAILER_COMPARE = Wake("compare", _TAILER, "Comparing a live layer with its table", rule="FORECACHE_STREAM_VERIFY_S")

STREAM_SHARDS = Wake("stream-shards", _STREAM, "Looking which shards fall to this process, and putting figures", 2.0)
STREAM_READ = Wake("stream-read", _STREAM, "Reading from Kafka, while there are no messages", 0.2)
STREAM_FIGURES = Wake("stream-figures", _STREAM, "Writing the figures of a stream", 1.0)
STREAM_STATE = Wake("stream-state", _STREAM, "Putting a stream's state into a lake in a bucket", 5.0)
STREAM_FILES = Wake("stream-files", _STREAM, "Copying a stream's ids and tiles into a lake in a bucket", 30.0)
STREAM_MODELS = Wake(
    "stream-models", _STREAM, "Looking for a newer release or champion",
    rule="1 s for a release (5 s in a bucket), 10 s for a champion, 1 h for neither",
)  # fmt: skip
STREAM_VIEWS = Wake("stream-views", _STREAM, "Pulling what a stream's views and look-ups stand on", 30.0)
STREAM_QUERY = Wake("stream-query", _STREAM, "Looking at the query of the engine spark", 0.2)
STREAM_ANSWERS = Wake("stream-answers", _STREAM, "Looking for committed answers to send to a topic", 0.5)
STREAM_LINEAGE = Wake(
    "stream-lineage", _STREAM, "Sending an OpenLineage event of a stream", rule="FORECACHE_OPENLINEAGE_STREAM_EVERY_S"
)

TRAINING_EVENTS = Wake("training-events", _TRAIN, "Reading what the workers report", 0.2)
TRAINING_JOIN = Wake("training-join", "forecache.plugins.torch.join", "Looking for a run, and if it is done", 1.0)
SCORING_PROGRESS = Wake("scoring-progress", _SCORE, "Reporting the progress of a job", 1.0)
RUN_HEARTBEAT = Wake("heartbeat", _RUN, "Renewing the heartbeat of a run", 5.0)
RUN_LOGS = Wake("run-logs", "run that Dagster launched", "Uploading what a step printed, to a lake in a bucket", 20.0)

PULL = Wake("pull", "forecache store pull --every", "Pulling what the remote serves", rule="--every")
LEASE = Wake("lease", "any process that holds one", "Renewing a lease", 5.0)

LANDED_FILES = Wake("landed", _DAEMON, "Looking for new landing files of a source (sensor)", 60)
DELIVERIES = Wake("deliveries", _DAEMON, "Looking if sources that are waited for were delivered (sensor)", 300)
RETRAINING = Wake("drifted", _DAEMON, "Requesting a training if figures exceed their limits (sensor)", 600)
STREAM_EVENTS = Wake("streams", _DAEMON, "Reporting streams, and restarting those that died (sensor)", 30)
ROLLOUT_STEPS = Wake("rollouts", _DAEMON, "Advancing a rollout (sensor)", 60)
RUNS_ELSEWHERE = Wake("runs-elsewhere", _DAEMON, "Reporting what runs without Dagster have built (sensor)", 60)
ALERTS = Wake("alerts", _DAEMON, "Sending alerts (sensor)", 60)

WAKES = tuple(value for value in dict(vars()).values() if isinstance(value, Wake))

"""OpenLineage events of a run of a stream: START, RUNNING, and COMPLETE, FAIL or ABORT at its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from forecache.base.settings import Settings
from forecache.plugins.lineage.events import OWN_FACET, PRODUCER, facet, namespace, package_version, run_event
from forecache.plugins.lineage.events import dataset_of as described
from forecache.plugins.lineage.fact import Dataset, named_run_id

START, RUNNING, COMPLETE, FAIL, ABORT = "START", "RUNNING", "COMPLETE", "FAIL", "ABORT"


@dataclass(frozen=True)
class StreamRun:
    """One process that runs a stream.

    Attributes:
        started_at: Unix time.
        inputs, outputs: Datasets that it reads and writes, by the declaration.
    """

    stream: str
    started_at: float
    code_version: str = ""
    inputs: Sequence[Dataset] = ()
    outputs: Sequence[Dataset] = ()

    def event(
        self,
        settings: Settings,
        kind: str,
        at: float,
        *,
        figures: Mapping[str, Any] | None = None,
        outputs: Sequence[Dataset] | None = None,
        error: str = "",
    ) -> dict[str, Any]:
        """An event of the run.

        Args:
            at: Unix time.
            figures: For the facet `forecache_stream`.
            outputs: With their current figures; None: as they are declared.
            error: Reason of a failure.
        """
        run_id = named_run_id(settings.lake_uri, "stream", self.stream, repr(self.started_at))
        facets = {
            "processing_engine": facet("processing_engine", {"name": "forecache", "version": package_version()}),
            "forecache_stream": {"_producer": PRODUCER, "_schemaURL": OWN_FACET, **(figures or {})},
        }
        if error:
            facets["errorMessage"] = facet("errorMessage", {"message": error, "programmingLanguage": "PYTHON"})
        job = {
            "namespace": namespace(settings),
            "name": f"stream.{self.stream}",
            "facets": _job_facets(settings, self.code_version),
        }
        inputs = [described(each, of="input") for each in self.inputs]
        made = [described(each, of="output") for each in (self.outputs if outputs is None else outputs)]
        moment = datetime.fromtimestamp(at, timezone.utc)
        return run_event(kind, moment, {"runId": run_id, "facets": facets}, job, inputs, made)


def _job_facets(settings: Settings, code_version: str) -> dict[str, Any]:
    pattern = {
        "eventTrigger": "PERIODIC",
        "eventContentMode": "COMPLETE_SNAPSHOT",
        "windowDuration": settings.openlineage_stream_every_s,
    }
    kind = {"processingType": "STREAMING", "integration": "FORECACHE", "jobType": "STREAM", "emissionPattern": pattern}
    facets = {"jobType": facet("jobType", kind)}
    if settings.openlineage_code_url:
        where = {"type": "git", "url": settings.openlineage_code_url, "version": code_version}
        facets["sourceCodeLocation"] = facet("sourceCodeLocation", where)
    return facets

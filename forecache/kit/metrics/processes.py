"""The processes of a reader, under the standard names of Prometheus's clients, summed over all that live."""

from forecache.kit.metrics.metric import counter, gauge

CPU = counter("process_cpu_seconds_total", "Processor time of the reader's live processes.")
RESIDENT = gauge("process_resident_memory_bytes", "Resident memory; pages that processes share count for each.")
OPEN_FILES = gauge("process_open_fds", "Open files and connections.")
MOST_FILES = gauge("process_max_fds", "Most open files and connections of one process.")
STARTED = gauge("process_start_time_seconds", "Start of the reader, Unix time.")

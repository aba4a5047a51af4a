"""What this process takes of the processor, with all that it has started, such as Spark's Java."""


def processor_s() -> float | None:
    """CPU seconds of this process and its children since its start, in user and in system mode; None: not known.

    Children that have ended count where they were waited for: the kernel adds their time to their parent's.
    """
    import psutil

    try:
        me = psutil.Process()
        # Children first: one that ends meanwhile is then missing once, and not counted twice.
        return float(sum(map(_taken_s, [*me.children(recursive=True), me])))
    except psutil.Error:
        return None


def _taken_s(process: object) -> float:
    import psutil

    assert isinstance(process, psutil.Process)
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)

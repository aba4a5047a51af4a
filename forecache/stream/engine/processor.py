"""Processor time of a process and its children, such as Spark's Java."""


def tree_cpu_s(pid: int) -> float:
    """Return the CPU seconds (user and system) of a process and its descendants since their start.

    A child that has ended still counts: the kernel adds its time to its parent's when the parent has waited for it. So
    the difference of two calls is the time that the tree used in between.

    Raises:
        psutil.NoSuchProcess: The process has ended.
    """
    import psutil

    root = psutil.Process(pid)
    total = 0.0
    # Children first: one that ends meanwhile is then missing, and not counted twice (itself and in its parent).
    for each in (*reversed(root.children(recursive=True)), root):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return float(total)

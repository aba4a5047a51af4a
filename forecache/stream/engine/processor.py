"""What a process takes of the processor, with all that it has started, such as Spark's Java."""


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process and of all that it has started, since their start, in user and in system mode.

    A child that has ended still counts: the kernel adds its time to its parent's when the parent has waited for it. So
    the difference of two calls is what the tree has taken meanwhile.

    Raises:
        psutil.NoSuchProcess: The process has ended.
    """
    import psutil

    root = psutil.Process(pid)
    total = 0.0
    # Children first: one that ends between the looks is then missing, not counted as a child and by its parent.
    for each in (*reversed(root.children(recursive=True)), root):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return float(total)

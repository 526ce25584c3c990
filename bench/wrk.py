"""How wrk corrects the times that it has measured."""


def corrected(times, connections, seconds):
    """The times in ms as wrk reports them, sorted.

    A request that took at least twice the mean interval between the requests of its connection is counted again for the
    requests that could have been sent meanwhile, each time one interval shorter, while more than an interval is left.
    """
    interval = 1e3 * seconds / (len(times) // connections)
    more = [time - step * interval for time in times for step in range(1, int(time / interval)) if time - step * interval > interval]
    return sorted(times + more)

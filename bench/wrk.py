"""What wrk makes of the times that it has measured."""


def corrected(times, connections, seconds):
    """The times as wrk tells them, sorted; times in ms.

    A request that took at least twice the mean interval between the requests of its connection counts again, each time
    an interval shorter, for requests that might have been sent meanwhile, as long as more than an interval is left.
    """
    interval = 1e3 * seconds / (len(times) // connections)
    more = [time - step * interval for time in times for step in range(1, int(time / interval)) if time - step * interval > interval]
    return sorted(times + more)

"""Functions by name."""

CLEANERS = {}


def register(name):
    def keep(function):
        CLEANERS[name] = function
        return function

    return keep

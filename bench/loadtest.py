"""How the load tool is called and what its results are called: the only file here that knows either."""

import json
import subprocess

from stage import binary, die

OBJECTIVE_MS = 1000


def arguments(stage, clients, group_size, audience, reliable):
    """Who the clients are and what they are sent; how much and how long is the caller's to add."""
    return None

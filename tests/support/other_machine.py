"""Processes of other machines: with a host and a boot of their own, and leases whose terms are short."""

from dataclasses import replace

from forecache.kit import lease

TERM_S = 3.0


def move_to(host: str) -> None:
    """Let this process be one of another machine from now on."""
    lease.LEASE = replace(lease.LEASE, every_s=0.3)
    lease.TERM_S, lease.MARGIN_S = TERM_S, 0.5
    found = lease.this_process
    lease.this_process = lambda *of: replace(found(*of), host=host, machine=f"boot of {host}")

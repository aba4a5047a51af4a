"""Check of `forecache doctor`: the SMTP server."""

from forecache.base.settings import Settings
from forecache.cli.checks import Finding

_TIMEOUT_S = 5.0


def check_mail(settings: Settings) -> Finding:
    """Connect to the SMTP server and log in, if the project declares a mailing.

    Raises:
        ForecacheError: The settings are wrong, or the server cannot be used.
    """
    from forecache.declare.loading import read_project
    from forecache.kit.smtp import Relay

    mailings = ", ".join(read_project(settings).mailings)
    if not mailings:
        return Finding("mail", "ok", "no mailing is declared")
    if not settings.smtp_host:
        remedy = "Set FORECACHE_SMTP_HOST; `forecache mail --dry-run` needs none."
        return Finding("mail", "warn", f"no SMTP server is set for {mailings}", remedy)
    impatient = settings.model_copy(update={"smtp_timeout_s": min(settings.smtp_timeout_s, _TIMEOUT_S)})
    with Relay(impatient, tries=1) as relay:
        relay.check()
    return Finding("mail", "ok", f"{settings.smtp_host}:{settings.smtp_port} takes connections, for {mailings}")

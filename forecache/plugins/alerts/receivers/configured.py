"""Receivers of alerts: their protocol, and those that the settings name."""

from email.utils import parseaddr
from typing import Protocol

from forecache.base.errors import SettingsError
from forecache.base.posting import PostFailure
from forecache.base.settings import Settings
from forecache.plugins.alerts.message import Message
from forecache.plugins.alerts.receivers.alertmanager import Alertmanager
from forecache.plugins.alerts.receivers.slack import Slack
from forecache.plugins.alerts.receivers.webhook import Webhook


class AlertReceiver(Protocol):
    """A receiver of messages."""

    @property
    def name(self) -> str:
        """Its name in the journal and for people; without secrets, and stable while the settings are."""

    def send(self, message: Message) -> PostFailure | None:
        """Send a message; returns None if the receiver accepted it. Raises nothing for failures of the receiver."""


def configured_alert_receivers(settings: Settings) -> list[AlertReceiver]:
    """The receivers of the FORECACHE_ALERT_ settings; empty if none is set.

    Raises:
        SettingsError: A setting that a receiver needs is missing or wrong.
    """
    sinks: list[AlertReceiver] = []
    for name in ("alert_webhook", "alert_slack", "alert_alertmanager"):
        _require_url(f"FORECACHE_{name.upper()}", getattr(settings, name))
    if settings.alert_webhook:
        sinks.append(Webhook(settings.alert_webhook, settings.alert_webhook_token, settings.alert_timeout_s))
    if settings.alert_slack:
        sinks.append(Slack(settings.alert_slack, settings.alert_timeout_s))
    if settings.alert_alertmanager:
        repeat_s, timeout_s = settings.alert_repeat_h * 3600, settings.alert_timeout_s
        sinks.append(Alertmanager(settings.alert_alertmanager, repeat_s=repeat_s, timeout_s=timeout_s))
    return [*sinks, *_email_receivers(settings)]


def has_alert_receivers(settings: Settings) -> bool:
    """Tell if the settings name a receiver."""
    return any((settings.alert_webhook, settings.alert_slack, settings.alert_alertmanager, settings.alert_email))


def _email_receivers(settings: Settings) -> list[AlertReceiver]:
    addresses = [address.strip() for address in settings.alert_email.split(",") if address.strip()]
    if not addresses:
        return []
    from forecache.kit.smtp import usable_address
    from forecache.plugins.alerts.receivers.email import Email

    if not settings.smtp_host:
        raise SettingsError("FORECACHE_ALERT_EMAIL is set, and no SMTP server.", remedy="Set FORECACHE_SMTP_HOST.")
    if not usable_address(parseaddr(settings.alert_email_from)[1]):
        raise SettingsError(
            f"FORECACHE_ALERT_EMAIL_FROM is {settings.alert_email_from!r}, which has no e-mail address.",
            remedy='Write it like "Forecache <forecache@example.org>".',
        )
    for address in addresses:
        if not usable_address(address):
            raise SettingsError(
                f"FORECACHE_ALERT_EMAIL has {address!r}, which is no e-mail address.",
                remedy="Write addresses with commas between them.",
            )
    return [Email(settings, usable_address(address)) for address in dict.fromkeys(addresses)]


def _require_url(name: str, url: str) -> None:
    # The value is not shown: it may be a secret.
    if url and not url.startswith(("http://", "https://")):
        raise SettingsError(f"{name} is no URL.", remedy="Write it like https://host/path.")

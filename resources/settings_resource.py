"""The Dagster resource of assets, sensors and schedules: the settings."""

import dagster as dg
from pydantic import Field

from forecache.base.settings import Settings, load_settings
from resources.session import current_session


class SettingsResource(dg.ConfigurableResource):
    """Builds `Settings` from FORECACHE_* variables; the UI shows only the fields below, never a secret."""

    home: str = Field(description="Folder that holds everything the project writes.")
    project: str = Field("dagster_project", description="Package of the project, with `pipelines/`.")

    environment: str = Field("", description="Environment of environments.toml; empty: the variables alone say it.")

    def load(self) -> Settings:
        """The settings of the current session, else those of the environment."""
        session = current_session()
        return session.settings if session else load_settings(home=self.home, project=self.project)

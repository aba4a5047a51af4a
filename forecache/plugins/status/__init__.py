"""Status of a project: its last runs and open alerts, for `forecache status` and for the reader's status page."""

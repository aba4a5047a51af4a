"""Status of a project: its last nights and open alerts, for `forecache status` and for the reader's status page."""

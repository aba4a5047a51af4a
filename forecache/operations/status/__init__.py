"""How a project is: its last nights and open alerts, for `forecache status` and for the reader's status page."""

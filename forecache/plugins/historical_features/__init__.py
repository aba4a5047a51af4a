"""The features of views at the timestamps of any table: from Python, and by `forecache features`."""

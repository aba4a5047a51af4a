"""States of windows: tiles of events, their combination, and the merge of last night's state with the tiles since."""

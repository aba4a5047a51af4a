"""The tailer: applies commits of the streams' tables to the live layers of this machine's stores."""

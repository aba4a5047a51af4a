"""Why a request was answered as it was."""

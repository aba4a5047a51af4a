"""The benchmark's project of customers whose published row follows their payments."""

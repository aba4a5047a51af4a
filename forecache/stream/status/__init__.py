"""Status and checks of declared streams, from the state files of their engines and live layers."""

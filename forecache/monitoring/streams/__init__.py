"""How the declared streams are: what their engines and live layers say, and which of it is not well."""
